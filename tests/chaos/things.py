"""What hosts should hold, by the slices' documents; and what they do: twins, or a lab."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ccfd.model import names
from ccfd.network import samples, shaping
from ccfd.network.dhcp_files import HOSTS
from tests import traces
from tests.lab import Lab
from tests.twins import World

Things = dict[str, set[str]]
KINDS = (
    *("domains", "bridges", "ports", "namespaces", "leases", "servers", "volumes"),
    # Which bridges dial whom, and which bridges and taps tell whom; which slices are on the
    # control network; whose flows the guards have, and how fast they may be.
    *("targets", "told", "uses", "flows", "limits"),
)


def nothing() -> Things:
    """Return no things."""
    return {kind: set() for kind in KINDS}


def expected(slices: Iterable[dict[str, Any]], tunnel_ips: Mapping[str, str]) -> Things:
    """Say what these slices (documents) are on hosts; *tunnel_ips* also knows the node's.

    Written from the slices' documents alone, and not by the code that plans them.
    """
    found = nothing()
    for one in slices:
        vni, held = one["vni"], [vm for vm in one["vms"] if vm["host"] is not None]
        tenants = {vm["host"] for vm in held if vm["kind"] == "slice"}
        node = names.NODE
        found["namespaces"].add(f"{node}: {names.namespace(vni)}")
        found["ports"].add(f"{node}: {names.inside_port(vni)}")
        if one["gateway"]:
            found["ports"].add(f"{node}: {names.outside_port(vni)}")
        if one["dhcp"]:
            found["servers"].add(f"{node}: {vni}")
        _network(vni, tenants, tunnel_ips, found)
        _plugged(held, found)
        for vm in held:
            found["domains"].add(f"{vm['host']}: {names.domain(vm['vm'])}")
            for name in (names.disk_volume, names.seed_volume, names.serial_log):
                found["volumes"].add(f"{vm['host']}: {name(vm['vm'])}")
            if one["dhcp"] and vm["kind"] == "slice":
                found["leases"].add(f"{node}: {vm['mac']} {vm['ip']} {vm['name']}")
        places = {node, *tenants}
        found["told"] |= _at(places, vni, _collectors(one))
        found["told"] |= {
            f"{vm['host']}: {names.tap(vm['vm'])} {told}"
            for vm in held
            for told in _collectors(one)
            if vm["kind"] == "slice" and told.startswith("ipfix")
        }
        dialled = one["controller"]
        if dialled is not None:
            target = f"tcp:{dialled['address']}:{dialled['port']}"
            found["targets"] |= _at(places, vni, [target])
            if "vm" in dialled:
                places = {vm["host"] for vm in held}
                _network(names.CONTROL_VNI, places, tunnel_ips, found)
                found["uses"] |= {f"{place}: {one['slice']}" for place in {node, *places}}
    return found


def _collectors(document: dict[str, Any]) -> list[str]:
    return [f"{kind} {to}" for kind, to in (document["monitoring"] or {}).items() if to]


def _at(places: Iterable[str], vni: int, whom: Iterable[str]) -> set[str]:
    """Say of the slice's bridges at *places* that each knows of *whom*."""
    return {f"{place}: {names.bridge(vni)} {one}" for place in places for one in whom}


def _network(vni: int, hosts: Iterable[str], tunnel_ips: Mapping[str, str], found: Things) -> None:
    """Add a network's bridges and tunnels: a star around the node."""
    node = names.NODE
    found["bridges"].add(f"{node}: {names.bridge(vni)}")
    for host in hosts:
        found["bridges"].add(f"{host}: {names.bridge(vni)}")
        found["ports"].add(f"{host}: {names.tunnel(vni, tunnel_ips[node])}")
        found["ports"].add(f"{node}: {names.tunnel(vni, tunnel_ips[host])}")


def _plugged(vms: Iterable[dict[str, Any]], found: Things) -> None:
    """Add what VMs have on guards."""
    for vm in vms:
        for port in (names.tap, names.patch, names.guard_patch):
            found["ports"].add(f"{vm['host']}: {port(vm['vm'])}")
        found["bridges"].add(f"{vm['host']}: {names.GUARD}")
        found["flows"].add(f"{vm['host']}: {cookie(vm['vm'])}")
        if vm["bandwidth"]:
            found["limits"].add(f"{vm['host']}: {names.tap(vm['vm'])} {vm['bandwidth']}000000")


def of_twins(world: World) -> Things:
    """List what the twins' hosts hold; a part of a thing counts as the thing."""
    return {
        "domains": {
            f"{host}: {names.domain(vm)}" for host, vm in {**world.domains, **world.definitions}
        },
        "bridges": {f"{host}: {names.bridge(vni)}" for host, vni in world.bridges}
        | {f"{host}: {names.GUARD}" for host in world.guards},
        "limits": {
            f"{host}: {tap} {port.bandwidth}000000"
            for host, taps in world.guards.items()
            for tap, port in taps.items()
            if port.bandwidth is not None
        },
        "flows": {f"{host}: {cookie(vm)}" for host, vm in world.flows},
        "ports": {f"{at[0]}: {name}" for at, ports in world.bridges.items() for name in ports}
        | {
            f"{host}: {name}"
            for host, taps in world.guards.items()
            for tap, port in taps.items()
            for name in (tap, names.guard_patch(port.vm or ""))
        }
        | {
            f"{names.NODE}: {names.outside_port(vni)}"
            for vni in {*world.gateways, *world.firewalls}
        },
        "namespaces": {
            f"{names.NODE}: {names.namespace(vni)}" for vni in {**world.namespaces, **world.legs}
        },
        "leases": {
            f"{names.NODE}: {lease.mac} {lease.ip} {lease.name}"
            for dhcp in (*world.dhcp.values(), *world.dhcp_files.values())
            for lease in dhcp.leases
        },
        "targets": {
            f"{host}: {names.bridge(vni)} {target}" for (host, vni), target in world.targets.items()
        },
        "told": {
            f"{host}: {names.bridge(vni)} {kind} {to}"
            for (host, vni), export in world.exports.items()
            for kind, to in asdict(export.to).items()
            if to is not None
        }
        | {
            f"{host}: {tap} ipfix {port.export.to.ipfix}"
            for host, taps in world.guards.items()
            for tap, port in taps.items()
            if port.export is not None
        },
        "uses": {f"{host}: {name}" for host, uses in world.controls.items() for _, name in uses},
        "servers": {f"{names.NODE}: {vni}" for vni in {**world.dhcp, **world.dhcp_files}},
        "volumes": {f"{host}: {names.disk_volume(vm)}" for host, vm in world.disks}
        | {
            f"{host}: {name(vm)}"
            for host, vm in world.seeds
            for name in (names.seed_volume, names.serial_log)
        },
    }


def is_whole(world: World) -> bool:
    """Tell whether no compound thing of the twins is there in part."""
    return (
        all(world.definitions.get(at) == one for at, one in world.domains.items())
        and world.namespaces.keys() == world.legs.keys()
        and world.dhcp == world.dhcp_files
        and world.gateways.keys() == world.firewalls
        and world.controls.keys() == {host for host, vni in world.bridges if vni == 0}
        and world.flows
        == {(host, port.vm) for host, taps in world.guards.items() for port in taps.values()}
        and world.disks.keys() == world.seeds.keys()
    )


def cookie(vm: str) -> str:
    """Return what the flows of a VM are known by."""
    return f"0x{vm.replace('-', '')[:16].lstrip('0')}"


def of_lab(lab: Lab) -> Things:
    """List what the lab's hosts hold; a domain counts whether or not it runs."""
    found, present = nothing(), traces.on_hosts(lab)
    for kind in ("bridges", "ports", "limits", "volumes", "domains"):
        found[kind] = set(present.get(kind, ()))
    found["targets"] = set(_targets(lab))
    found["flows"] = set(_flows(lab))
    found["told"] = set(_told(lab))
    # `ip netns list` says more than the name.
    found["namespaces"] = {" ".join(line.split()[:2]) for line in present.get("namespaces", ())}
    for pid in lab.pids(names.NODE, "dnsmasq"):
        said = Path(f"/proc/{pid}/cmdline").read_text().strip("\0").split("\0")[-1]
        place = Path(said.partition("=")[2]).parent
        found["servers"].add(f"{names.NODE}: {place.name}")
        for line in (place / HOSTS).read_text().splitlines():
            found["leases"].add(f"{names.NODE}: {line.replace(',', ' ')}")
    return found


def _targets(lab: Lab) -> Iterator[str]:
    """List which of ccf's bridges dial which controllers."""
    for place in (*lab.layout.compute, names.NODE):
        for bridge in lab.run(place, ["ovs-vsctl", "list-br"]).stdout.split():
            # The guard's row is where it listens for ccfd.
            if bridge.startswith(names.PREFIX) and bridge != names.GUARD:
                dialled = lab.run(place, ["ovs-vsctl", "get-controller", bridge]).stdout
                yield from (f"{place}: {bridge} {target}" for target in dialled.split())


def _flows(lab: Lab) -> Iterator[str]:
    """List whose flows the guards have, by their cookies."""
    dump = ["ovs-ofctl", "-O", "OpenFlow13", "--no-stats", "dump-flows", names.GUARD]
    for place in (*lab.layout.compute, names.NODE):
        if names.GUARD in lab.run(place, ["ovs-vsctl", "list-br"]).stdout.split():
            for line in lab.run(place, dump).stdout.splitlines():
                if "cookie=" in line:
                    yield f"{place}: {line.strip().removeprefix('cookie=').partition(',')[0]}"


def _told(lab: Lab) -> Iterator[str]:
    """List which of ccf's bridges and taps tell which collectors."""
    for place in (*lab.layout.compute, names.NODE):
        for table in ("sFlow", "IPFIX"):
            targets = {uuid[1]: to for uuid, to in _rows(lab, place, table, "_uuid,targets")}
            for name, (_, row) in _rows(lab, place, "bridge", f"name,{table.lower()}"):
                # A bridge without one has an empty set there.
                if name.startswith(names.PREFIX) and row:
                    yield f"{place}: {name} {table.lower()} {targets[row]}"
        for ids, (_, row) in _rows(lab, place, samples.TABLE, "external_ids,ipfix"):
            yield f"{place}: {dict(ids[1])[shaping.PORT]} ipfix {targets[row]}"


def _rows(lab: Lab, place: str, table: str, columns: str) -> list[Any]:
    show = ["ovs-vsctl", "-f", "json", f"--columns={columns}", "list", table]
    rows: list[Any] = json.loads(lab.run(place, show).stdout)["data"]
    return rows


def running(lab: Lab) -> set[str]:
    """List the domains that run."""
    return {
        f"{host}: {name}"
        for host in lab.layout.compute
        for name in lab.run(host, ["virsh", "list", "--name"]).stdout.split()
        if name.startswith(names.PREFIX)
    }


def tunnel_ips(lab: Lab) -> dict[str, str]:
    """Read the hosts' tunnel addresses, and the node's, from the lab's settings."""
    settings = tomllib.loads((lab.layout.dir / "ccfd.toml").read_text())
    known = {host["name"]: host["tunnel_ip"] for host in settings["host"]}
    return {**known, names.NODE: settings["network_node"]["tunnel_ip"]}


def surplus(found: Things, wanted: Things) -> dict[str, list[str]]:
    """List what is in *found* and not in *wanted*."""
    more = {kind: sorted(found[kind] - wanted[kind]) for kind in KINDS}
    return {kind: things for kind, things in more.items() if things}
