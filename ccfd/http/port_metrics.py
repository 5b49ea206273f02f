"""What went through VMs' ports, for Prometheus: counters as the switches tell them."""

from collections.abc import Iterator
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from ccfd.network.counters import Counters
from ccfd.network.mirror import WatchedPort

_WAYS = {"receive": "received", "transmit": "sent"}
_WHAT = {"bytes": "Bytes that", "packets": "Packets that", "drops": "Packets dropped of what"}


class Switches(Protocol):
    """Who knows what switches look like."""

    def all_ports(self) -> Iterator[WatchedPort]:
        """Yield all ports of ours on all switches that are heard."""

    def heard(self) -> dict[str, bool]:
        """Tell of each host whether its switch is heard."""


class PortMetrics:
    """A collector: a VM's counters are there while its port is, and begin anew with its port."""

    def __init__(self, switches: Switches) -> None:
        self._switches = switches

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Yield each family."""
        heard = GaugeMetricFamily(
            "ccfd_switch_heard", "1 while the switch of the host is heard", labels=["host"]
        )
        for host, is_heard in self._switches.heard().items():
            heard.add_metric([host], float(is_heard))
        yield heard
        # By name, because a port may for a moment be on two switches.
        ports: dict[tuple[str, str], Counters] = {
            (port.slice, port.vm): port.counters
            for port in self._switches.all_ports()
            if port.slice is not None
            and port.vm is not None
            and port.kind != "patch"
            and port.counters is not None
        }
        for way, said in _WAYS.items():
            for what, text in _WHAT.items():
                family = CounterMetricFamily(
                    f"ccfd_port_{way}_{what}", f"{text} the VM has {said}", labels=["slice", "vm"]
                )
                for labels, counters in ports.items():
                    count = getattr(getattr(counters, way), what)
                    if count is not None:
                        family.add_metric(labels, count)
                yield family
