"""Decides how ports join, and leave, the operator's own bridge that gateways go out by.

That bridge is not ours: nothing but our ports is touched, and other slices' join it meanwhile. So
there is no `wait` for its ports here: inserting one and deleting one by its id meet nobody.
"""

from collections.abc import Iterable

from ccfd.errors import Refused
from ccfd.model.network import Ports
from ccfd.network.changes import SLICE, Change, Snapshot, Switch, mutate
from ccfd.network.ovsdb import Operation
from ccfd.network.ports import join_ports
from ccfd.network.rows import to_uuids


def attach(bridge: str, wanted: Ports, switch: Switch, seen: Snapshot) -> Change:
    """Add *wanted* to the bridge. Raises `Refused` (`switch_error`) where it cannot."""
    change = Change()
    if seen.bridge is None:
        raise Refused(
            "switch_error",
            f"there is no bridge {bridge} on {wanted.host}: make it, or set"
            " [network_node] external_interface",
        )
    names = {port.name for port in wanted.ports}
    strangers = seen.taken | {
        row.name
        for row in seen.interfaces
        if row.name in names and row.external_ids.get(SLICE) != wanted.slice
    }
    if strangers:
        raise Refused(
            "switch_error",
            f"the names {', '.join(sorted(strangers))} are in use on {wanted.host}, which slice"
            f" {wanted.slice} needs on bridge {bridge}: remove those ports",
        )
    join_ports(wanted, switch, seen, wanted.ports, change)
    return change


def detach(ports: Iterable[str]) -> list[Operation]:
    """Take the ports with these ids off their bridge; their rows then go by themselves."""
    return [
        mutate(
            "Bridge",
            [["ports", "includes", to_uuids([port])]],
            ["ports", "delete", to_uuids([port])],
        )
        for port in ports
    ]
