"""Kills against the real lab: libvirt, QEMU, Open vSwitch, dnsmasq, RabbitMQ and PostgreSQL."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests import traces
from tests.ccfd_process import CcfdProcess
from tests.chaos import things
from tests.chaos.matrix import Row
from tests.chaos.scenarios import Send
from tests.chaos.verdict import Verdict
from tests.lab import Lab
from tests.portal import TERMINAL, Body, Portal

SLICES = ("red", "blue")
MOST_VMS = 2
VM = {"flavor": "tiny", "image": "tiny"}


@dataclass
class Killer:
    """Sends random events and kills ccfd in the middle of each."""

    lab: Lab
    ccfd: CcfdProcess
    portal: Portal
    random: Random
    usual: dict[str, float] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def measure(self) -> None:
        """See how long each event takes when nobody is killed; what is made is deleted again."""
        asks: list[Send] = [
            ("slice.create", {"slice": "calm", "gateway": False, "vms": [{"name": "a", **VM}] * 1}),
            ("vm.create", {"slice": "calm", "name": "b", **VM}),
        ]
        for kind, body in asks:
            await self._timed(kind, body)
        await self._timed("vm.delete", {"vm": self._slices()[0]["vms"][1]["vm"]})
        await self._timed("slice.delete", {"slice": "calm"})

    async def _timed(self, kind: str, body: Body) -> None:
        began = time.monotonic()
        made = await self.portal.ask(kind, **body)
        assert made["outcome"] == "succeeded", made
        self.usual[kind] = time.monotonic() - began

    def _slices(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ccfd.get("/v1/slices")["items"]
        return found

    def _choose(self) -> Send:
        """Choose an event that can be carried out."""
        there = {one["slice"]: one["vms"] for one in self._slices()}
        asks: list[Send] = [
            (
                "slice.create",
                {
                    "slice": name,
                    "gateway": False,
                    "vms": [{"name": vm, **VM} for vm in "ab"[: self.random.randint(1, MOST_VMS)]],
                },
            )
            for name in SLICES
            if name not in there
        ]
        for name, vms in there.items():
            asks.append(("slice.delete", {"slice": name}))
            asks += [("vm.delete", {"vm": vm["vm"]}) for vm in vms]
            if len(vms) < MOST_VMS:
                asks.append(("vm.create", {"slice": name, **VM}))
        # Each kind as often as the others, however many ways there are to ask for it.
        kind = self.random.choice(sorted({kind for kind, _ in asks}))
        return self.random.choice([ask for ask in asks if ask[0] == kind])

    async def kill(self) -> Row:
        """Ask, kill, start anew, wait for the end, and compare hosts and database."""
        kind, body = self._choose()
        request = await self.portal.publish(kind, body)
        self.asked.append(request)
        await asyncio.sleep(self.random.random() * self.usual[kind])
        await asyncio.to_thread(self.ccfd.kill)
        await asyncio.to_thread(self.ccfd.start)
        verdict = Verdict()
        try:
            end = await self.portal.terminal(request)
        except TimeoutError:
            verdict.ended_once = False
            end = {}
        if end.get("outcome") != "succeeded":
            verdict.not_whole(f"{kind} ended as {end}")
        await asyncio.to_thread(self._compare, verdict)
        return Row(event=kind, story="lab", what="lab", moment="", kills=1, verdict=verdict)

    def _compare(self, verdict: Verdict) -> None:
        slices = self._slices()
        wanted = things.expected(slices, things.tunnel_ips(self.lab))
        found = things.of_lab(self.lab)
        for kind, left in things.surplus(found, wanted).items():
            verdict.leak(kind, left, len(left))
        missing = things.surplus(wanted, {**found, "domains": things.running(self.lab)})
        if missing:
            verdict.not_whole(f"missing: {missing}")
        vms = [vm for one in slices for vm in one["vms"]]
        states = {one["state"] for one in slices} | {vm["state"] for vm in vms}
        if not states <= {"active", "running"}:
            verdict.not_whole(f"left in between: {slices}")
        for host in self.ccfd.get("/v1/hosts")["items"]:
            for size in ("cpu", "ram", "disk"):
                wants = sum(vm[size] for vm in vms if vm["host"] == host["host"])
                if host[size]["used"] != wants:
                    verdict.leak("capacity", f"{host['host']}: {size} {host[size]}, not {wants}")
        used = sum(net["addresses"]["used"] for net in self.ccfd.get("/v1/networks")["items"])
        if used != 64 * len(slices):
            verdict.leak("addresses", f"{used} for {len(slices)} slices")

    async def clear(self) -> Row:
        """Delete all; nothing may be left, and every request has one end, however often sent."""
        verdict = Verdict()
        for one in self._slices():
            gone = await self.portal.ask("slice.delete", slice=one["slice"])
            if gone["outcome"] != "succeeded":
                verdict.not_whole(f"slice.delete ended as {gone}")
        left = {**traces.on_hosts(self.lab), **traces.in_the_api(self.ccfd)}
        for kind, items in left.items():
            verdict.leak(kind, items, len(items))
        for request in self.asked:
            ends = [
                body
                for body in self.portal.heard
                if body.get("request_id") == request and body.get("outcome") in TERMINAL
            ]
            if not ends or any(end != ends[0] for end in ends):
                verdict.ended_once = False
                verdict.notes.append(f"{request} ended as {ends}")
        return Row(
            event="all deleted", story="lab", what="lab", moment="", kills=0, verdict=verdict
        )


async def run(lab: Lab, kills: int, *, seed: int, tell: Callable[[str], None]) -> list[Row]:
    """Kill a real ccfd *kills* times in *lab*."""
    rows = []
    with CcfdProcess(lab) as ccfd:
        async with Portal.connected(lab.env["CCF_AMQP_URL"]) as portal:
            killer = Killer(lab, ccfd, portal, Random(seed))
            await killer.measure()
            for number in range(1, kills + 1):
                row = await killer.kill()
                rows.append(row)
                if not row.verdict.good or number % 10 == 0:
                    tell(f"lab {number} of {kills}, {row.event}: {row.verdict.notes or 'well'}")
            rows.append(await killer.clear())
    return rows
