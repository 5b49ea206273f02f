"""A slice that is there before the fault: do its VMs have addresses and each other after it?"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from tests.chaos.faults.portal import Portal
from tests.lab import Lab

NAME = "witness"
WITHIN = 120.0
# A lease that is asked for anew, over the tunnel, from the server on the network node.
RENEW = "udhcpc -n -q -t 5 -i eth0 >/dev/null 2>&1"


class Witness:
    """Two guests on two hosts."""

    def __init__(self, lab: Lab, portal: Portal) -> None:
        self._lab = lab
        self._portal = portal
        self._vms: list[dict[str, Any]] = []

    async def _ask(self, kind: str, **body: Any) -> dict[str, Any]:
        request = f"{kind}-{NAME}-{time.time_ns()}"
        self._portal.publish([(kind, request, {"slice": NAME, **body})])
        assert await self._portal.until_ended({request}, WITHIN), f"{kind} of {NAME} never ended"
        (end,) = self._portal.ends(request)
        assert end["outcome"] == "succeeded", end
        result: dict[str, Any] = end["result"]
        return result

    async def appear(self) -> None:
        """Create the slice; return when its guests have their leases and reach each other."""
        vms = [{"name": name, "flavor": "tiny", "image": "tiny"} for name in "ab"]
        self._vms = (await self._ask("slice.create", gateway=False, vms=vms))["vms"]
        if why := await self.suffers():
            raise AssertionError(f"{NAME} never worked: {why}")

    async def vanish(self) -> None:
        """Delete the slice."""
        await self._ask("slice.delete")

    async def suffers(self) -> str:
        """Say what does not work; "" when all does: leases anew, and HTTP from guest to guest."""
        one, other = self._vms
        jobs = [asyncio.to_thread(self._works, *pair) for pair in ((one, other), (other, one))]
        return "; ".join(filter(None, await asyncio.gather(*jobs)))

    def _works(self, one: dict[str, Any], other: dict[str, Any]) -> str:
        has = f"ip -4 -o addr show eth0 | grep -q ' {one['ip']}/'"
        reaches = f"timeout 5 wget -qO- http://{other['ip']}/"
        end = time.monotonic() + WITHIN
        while True:
            try:
                self._lab.guest(one["vm"], ["sh", "-c", f"{RENEW} && {has} && {reaches}"])
            except Exception as exc:  # whatever a guest that still boots makes libvirt say
                if time.monotonic() > end:
                    return f"{one['name']}: {exc}"
                time.sleep(0.5)
            else:
                return ""
