"""What to look at when a guest has no address: gathered at the moment, for the test's report."""

from __future__ import annotations

import subprocess
from typing import Any

from ccfd.model import names
from tests.lab import Lab

INTERFACES = "ovs-vsctl --columns=name,ofport,ofport_request,link_state,error,external_ids"


def of_vm(lab: Lab, vm: dict[str, Any]) -> str:
    """Tell what the guest, its host and the network node see of the VM's network."""
    tap = names.tap(vm["vm"])
    hears = f"timeout 3 tcpdump -c 4 -n -e -i {tap}"
    return "\n".join(
        [
            f"no address in {vm['name']} ({vm['vm']}, {vm['mac']}) on {vm['host']}",
            _in_guest(lab, vm["vm"], "ip -o -s link; ip -o addr; ps; dmesg | tail -5"),
            *(
                _on(lab, vm["host"], line)
                for line in (f"ip -o -s link show {tap}", f"{INTERFACES} list interface", hears)
            ),
            *(
                _on(lab, "node", line)
                for line in (
                    f"{INTERFACES} list interface",
                    "for n in $(ip netns | cut -d' ' -f1); do"
                    " ip netns exec $n ip -o -s link show inside;"
                    " ip netns exec $n ethtool -k inside | grep tx-checksumming;"
                    " ip netns exec $n timeout 3 tcpdump -c 4 -n -e -i inside; done",
                    "ps ax | grep '[d]nsmasq'",
                )
            ),
        ]
    )


def _in_guest(lab: Lab, vm: str, line: str) -> str:
    try:
        return f"[guest] {line}\n{lab.guest(vm, ['sh', '-c', line])}"
    except Exception as exc:
        return f"[guest] {line}\n{exc!r}"


def _on(lab: Lab, host: str, line: str) -> str:
    argv = lab.exec_argv(host, ["sh", "-c", line])
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    except subprocess.TimeoutExpired as exc:
        return f"[{host}] {line}\n{exc!r}"
    return f"[{host}] {line}\n{done.stdout}{done.stderr}"
