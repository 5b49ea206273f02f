"""What `ccfd check` asks of a switch's guard: whether it takes flows, or could once it is made."""

from pathlib import Path

from ccfd.errors import Refused
from ccfd.model import names
from ccfd.network import guard_flows, openflow
from ccfd.network.endpoints import Endpoint, Tcp
from ccfd.network.ofctl import Ofctl
from ccfd.network.ovsdb import DATABASE, Ovsdb
from ccfd.network.rows import as_uuids
from ccfd.network.snapshot import has_guard
from ccfd.settings import Host, NetworkNode, Tls

SELECT_KEYS = {"op": "select", "table": DATABASE, "where": [], "columns": ["ssl"]}


async def guard(host: str, place: Host | NetworkNode, tls: Tls) -> str:
    """Ask the guard for its flows. Raises `Refused` and `Transient` that say what to do."""
    where = openflow.endpoint(place.openflow, place.ovsdb, place.tunnel_ip)
    told = openflow.written(where)
    db = Ovsdb(place.ovsdb, tls)
    try:
        stands = await has_guard(db)
        (keys,) = await db.transact([SELECT_KEYS])
    finally:
        await db.close()
    advice = _advice(where, has_keys=bool(as_uuids(keys["rows"][0]["ssl"])))
    if advice:
        raise Refused("invalid_state", f"nobody will take flows at {told}: {advice}")
    if not stands:
        return f"to be made with the first VM, at {told}"
    return f"{len(guard_flows.read(await Ofctl(host, where, tls).dump()))} VMs, at {told}"


def _advice(where: Endpoint, *, has_keys: bool) -> str:
    """Say what is missing before a guard can be reached at *where*; nothing if it is all there."""
    if isinstance(where, Tcp):
        lacking = where.tls and not has_keys
        return "give ovs-vswitchd there its keys, ovs-vsctl set-ssl KEY CERT CA" if lacking else ""
    folder = Path(where.path).parent
    if folder.is_dir():
        return ""
    return (
        f"set openflow to unix:DIRECTORY/{names.GUARD}.mgmt, with the directory where ovs-vswitchd"
        " has its bridges' sockets (/run/openvswitch as a rule)"
    )
