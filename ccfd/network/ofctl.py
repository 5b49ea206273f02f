"""Sets and lists the flows of one switch's guard, with Open vSwitch's own `ovs-ofctl`."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from ccfd.errors import CcfdError, Refused, Transient
from ccfd.network.commands import Argv, CommandError, run
from ccfd.network.endpoints import Endpoint, Tcp
from ccfd.network.openflow import written
from ccfd.settings import Tls

WITHIN = 10.0
"""Seconds that one command may take."""


@dataclass(slots=True)
class _Bundle:
    """Lines that one process hands over, for all who came while the one before was running."""

    lines: list[str] = field(default_factory=list)
    sent: bool = False
    error: CcfdError | None = None


class Ofctl:
    """Commands for the guard of *host*'s switch, one at a time; who comes meanwhile shares one.

    `turn` is held by whoever calls anything but `change`. Raises `Transient` (`switch_error`)
    where the guard does not answer or does not take it.
    """

    def __init__(self, host: str, place: Endpoint, tls: Tls) -> None:
        self._host = host
        self._place = place
        self._tls = tls
        self.turn = asyncio.Lock()
        self._next = _Bundle()

    async def change(self, lines: Sequence[str]) -> None:
        """Carry out *lines* of a bundle: all at once, or none."""
        bundle = self._next
        bundle.lines += lines
        async with self.turn:
            if not bundle.sent:
                self._next, bundle.sent = _Bundle(), True
                bundle.error = Transient("switch_error", "who would have sent it was cancelled")
                bundle.error = await self._tried(bundle.lines)
        if bundle.error is not None:
            raise bundle.error

    async def _tried(self, lines: Sequence[str]) -> CcfdError | None:
        try:
            await self.send(lines)
        except CcfdError as exc:
            return exc
        return None

    async def send(self, lines: Sequence[str]) -> None:
        """Hand *lines* over."""
        text = "".join(f"{line}\n" for line in lines)
        await self._run(("--bundle", "add-flows"), ("-",), text)

    async def dump(self) -> str:
        """List all flows, as they are printed."""
        return await self._run(("--no-names", "--no-stats", "dump-flows"), (), "")

    async def set_meter(self, meter: str) -> None:
        """Have a meter be as *meter* says."""
        try:
            await self._try(("add-meter",), (meter,), "")
        except CommandError as exc:
            if "METER_EXISTS" not in exc.said:
                raise self._trouble(exc) from exc
            await self._run(("mod-meter",), (meter,), "")

    async def remove_meter(self, number: int) -> None:
        """Remove a meter with all flows that use it; no meter of that number is well, too."""
        await self._run(("del-meter",), (f"meter={number}",), "")

    async def dump_meters(self) -> str:
        """List all meters, as they are printed."""
        return await self._run(("dump-meters",), (), "")

    async def _run(self, what: Argv, more: Argv, text: str) -> str:
        try:
            return await self._try(what, more, text)
        except CommandError as exc:
            raise self._trouble(exc) from exc

    async def _try(self, what: Argv, more: Argv, text: str) -> str:
        argv = ("ovs-ofctl", "-O", "OpenFlow13", *self._keys(), *what, written(self._place), *more)
        return await run(argv, text=text, within=WITHIN)

    def _trouble(self, exc: CommandError) -> Transient:
        return Transient(
            "switch_error",
            f"the guard of {self._host} does not take flows at {written(self._place)}: "
            f"{exc.said}; see that ovs-vswitchd runs, has its keys (ovs-vsctl set-ssl) where it"
            " is asked by TLS, and may be reached there, or set openflow in the settings",
        )

    def _keys(self) -> Argv:
        if not (isinstance(self._place, Tcp) and self._place.tls):
            return ()
        tls = self._tls
        if tls.ca is None or tls.cert is None or tls.key is None:
            raise Refused(
                "host_unreachable", "an ssl: address needs ca, cert and key in the [tls] section"
            )
        return (f"--private-key={tls.key}", f"--certificate={tls.cert}", f"--ca-cert={tls.ca}")
