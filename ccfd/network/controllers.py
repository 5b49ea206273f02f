"""Decides what points a bridge at its OpenFlow controller.

Columns are those of ovs-vswitchd.conf.db(5), tables Bridge and Controller. A bridge with a
controller is `secure`: it never starts to forward by itself when the controller is away. Switch
and controller find each other outside of the bridge (`out-of-band`), so that a tenant's flows
cannot cut the connection, nor can what the tenant sends get into it.
"""

from dataclasses import replace
from typing import Any

from ccfd.model.network import Controller
from ccfd.network.changes import Change, insert, reference
from ccfd.network.rows import ControllerRow, to_uuids

PROTOCOLS = frozenset({"OpenFlow10", "OpenFlow13"})

RATE_LIMIT = 1000
"""Packets a second that one bridge sends its controller at most, twice: those that no flow matches,
and those that a flow sends."""

OUT_OF_BAND = "out-of-band"


def bridge_columns(wanted: Controller | None) -> dict[str, Any]:
    """Return what the Bridge row says of how it is controlled."""
    return {
        "fail_mode": "standalone" if wanted is None else "secure",
        "protocols": frozenset() if wanted is None else PROTOCOLS,
    }


def dialled(wanted: Controller | None) -> ControllerRow | None:
    """Return the row by which a bridge dials *wanted*."""
    if wanted is None:
        return None
    return ControllerRow(
        uuid="", target=wanted.target, connection_mode=OUT_OF_BAND, rate_limit=RATE_LIMIT
    )


def attach(
    bridge: str,
    wanted: ControllerRow | None,
    present: tuple[ControllerRow, ...],
    change: Change,
) -> dict[str, Any]:
    """Have *bridge* the controller *wanted* and no other; return what its row must be set to.

    A row that nothing refers to any more goes by itself; a new one is dialled at once.
    """
    if wanted is None:
        return {"controller": to_uuids([])} if present else {}
    if [replace(row, uuid="") for row in present] == [wanted]:
        return {}
    columns = {
        "target": wanted.target,
        "connection_mode": wanted.connection_mode,
        "controller_rate_limit": wanted.rate_limit,
        "local_ip": wanted.local_ip,
        "local_netmask": wanted.local_netmask,
    }
    row = {name: value for name, value in columns.items() if value is not None}
    change.ops.append(insert("Controller", bridge, row))
    return {"controller": reference("Controller", bridge)}
