"""A tenant's OpenFlow controller, written with os-ken: each switch learns which MAC is where.

    learning_switch.py ADDRESS PORT SECONDS

It listens at ADDRESS and PORT; flows end SECONDS without a packet. It runs in an environment that
has os-ken (`tests.osken.environment`), on the threads of Python ("native", os-ken's default).
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from typing import Any

from os_ken.base.app_manager import AppManager, OSKenApp
from os_ken.cfg import CONF
from os_ken.controller import controller, ofp_event
from os_ken.controller.handler import CONFIG_DISPATCHER, MAIN_DISPATCHER, set_ev_cls
from os_ken.lib.packet.ethernet import ethernet
from os_ken.lib.packet.packet import Packet
from os_ken.ofproto import ofproto_v1_3

FORGETS_AFTER = "CONTROLLER_FORGETS_AFTER"


class LearningSwitch(OSKenApp):  # type: ignore[misc]  # os-ken has no types, and is not installed
    """Sends a packet where its receiver was last seen, and everywhere while that is unknown."""

    OFP_VERSIONS = (ofproto_v1_3.OFP_VERSION,)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._places: defaultdict[int, dict[str, int]] = defaultdict(dict)
        self._forgets_after = int(os.environ[FORGETS_AFTER])

    @set_ev_cls(ofp_event.EventOFPSwitchFeatures, CONFIG_DISPATCHER)  # type: ignore[untyped-decorator]  # as above
    def connected(self, event: Any) -> None:
        """Have a switch that connects ask about what it has no flow for."""
        switch = event.msg.datapath
        ask = _output(switch, switch.ofproto.OFPP_CONTROLLER)
        switch.send_msg(
            switch.ofproto_parser.OFPFlowMod(
                datapath=switch,
                priority=0,
                match=switch.ofproto_parser.OFPMatch(),
                instructions=_instructions(switch, ask),
            )
        )

    @set_ev_cls(ofp_event.EventOFPPacketIn, MAIN_DISPATCHER)  # type: ignore[untyped-decorator]  # as above
    def asked(self, event: Any) -> None:
        """Learn from a packet, and say where it goes."""
        message = event.msg
        switch, came_by = message.datapath, message.match["in_port"]
        head = Packet(message.data).get_protocol(ethernet)
        places = self._places[switch.id]
        places[head.src] = came_by
        goes_by = places.get(head.dst, switch.ofproto.OFPP_FLOOD)
        actions = _output(switch, goes_by)
        if head.dst in places:
            switch.send_msg(
                switch.ofproto_parser.OFPFlowMod(
                    datapath=switch,
                    priority=1,
                    idle_timeout=self._forgets_after,
                    match=switch.ofproto_parser.OFPMatch(in_port=came_by, eth_dst=head.dst),
                    instructions=_instructions(switch, actions),
                )
            )
        whole = message.buffer_id == switch.ofproto.OFP_NO_BUFFER
        switch.send_msg(
            switch.ofproto_parser.OFPPacketOut(
                datapath=switch,
                buffer_id=message.buffer_id,
                in_port=came_by,
                actions=actions,
                data=message.data if whole else None,
            )
        )


def _output(switch: Any, port: int) -> list[Any]:
    return [switch.ofproto_parser.OFPActionOutput(port, switch.ofproto.OFPCML_NO_BUFFER)]


def _instructions(switch: Any, actions: list[Any]) -> list[Any]:
    apply = switch.ofproto.OFPIT_APPLY_ACTIONS
    return [switch.ofproto_parser.OFPInstructionActions(apply, actions)]


def main() -> None:
    """Run it until it is ended."""
    address, port, os.environ[FORGETS_AFTER] = sys.argv[1:]
    assert controller  # it is what knows the options
    CONF(["--ofp-listen-host", address, "--ofp-tcp-listen-port", port], project="os_ken")
    # By its name as a module: the application is not looked for in what is run.
    AppManager.run_apps(["os_ken.controller.ofp_handler", "learning_switch"])


if __name__ == "__main__":
    main()
