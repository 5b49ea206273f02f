"""What of ccfd's is to be found in a lab: on hosts, on the network node, in the API."""

from __future__ import annotations

import json
from typing import Any

from tests.ccfd_process import CcfdProcess
from tests.lab import Lab

Traces = dict[str, list[str]]


def on_hosts(lab: Lab) -> Traces:
    """List ccf's things on every host and on the node; base images do not count."""
    found: Traces = {
        "domains": [],
        "volumes": [],
        "bridges": [],
        "ports": [],
        "limits": [],
        "namespaces": [],
        "links": [],
        "tables": [],
        "servers": [],
    }

    def add(what: str, place: str, names: list[str]) -> None:
        found[what] += [f"{place}: {name}" for name in names]

    for place in (*lab.layout.compute, "node"):
        add("bridges", place, _ours(lab, place, "ovs-vsctl", "list-br"))
        tagged = lab.run(
            place,
            ["ovs-vsctl", "--format=json", "--columns=name,external_ids", "list", "Interface"],
        ).stdout
        add("ports", place, [row[0] for row in _rows(tagged) if "ccf-slice" in str(row[1])])
        limits = ["--format=json", "--columns=external_ids,other_config", "list", "QoS"]
        for ids, config in _rows(lab.run(place, ["ovs-vsctl", *limits]).stdout):
            add("limits", place, [f"{dict(ids[1])['ccf-port']} {dict(config[1])['max-rate']}"])
        told = ["--format=json", "--columns=external_ids", "list", "Flow_Sample_Collector_Set"]
        for (ids,) in _rows(lab.run(place, ["ovs-vsctl", *told]).stdout):
            add("limits", place, [f"told of {dict(ids[1])['ccf-port']}"])
        add("namespaces", place, _ours(lab, place, "ip", "netns", "list"))
        links = json.loads(lab.run(place, ["ip", "-json", "link"]).stdout)
        add("links", place, [one["ifname"] for one in links if one["ifname"].startswith("ccf")])
        add("tables", place, _ours(lab, place, "nft", "list", "tables"))
        servers = lab.pids(place, "dnsmasq")
        add("servers", place, [str(pid) for pid in servers])
    for host in lab.layout.compute:
        add("domains", host, _ours(lab, host, "virsh", "list", "--all", "--name"))
        pools = lab.run(host, ["virsh", "pool-list", "--all", "--name"]).stdout.split()
        for pool in pools:
            listed = lab.run(host, ["virsh", "vol-list", pool]).stdout.splitlines()[2:]
            names = [line.split()[0] for line in listed if line.strip()]
            ours = [name for name in names if name.startswith("ccf-")]
            add("volumes", host, [name for name in ours if not name.startswith("ccf-image-")])
    return {what: names for what, names in found.items() if names}


def _ours(lab: Lab, place: str, *command: str) -> list[str]:
    printed = lab.run(place, list(command)).stdout
    return [line for line in printed.splitlines() if "ccf-" in line]


def _rows(printed: str) -> list[list[Any]]:
    rows: list[list[Any]] = json.loads(printed)["data"] if printed.strip() else []
    return rows


def in_the_api(ccfd: CcfdProcess) -> Traces:
    """List what is still held in the database."""
    found: Traces = {}
    for what in ("slices", "vms", "subnets"):
        items = ccfd.get(f"/v1/{what}")["items"]
        if items:
            found[what] = [json.dumps(item) for item in items]
    used = [
        f"{host['host']}: {size} {host[size]['used']}"
        for host in ccfd.get("/v1/hosts")["items"]
        for size in ("cpu", "ram", "disk")
        if host[size]["used"]
    ] + [
        f"{net['cidr']}: {net['addresses']['used']} addresses"
        for net in ccfd.get("/v1/networks")["items"]
        if net["addresses"]["used"]
    ]
    if used:
        found["used"] = used
    return found
