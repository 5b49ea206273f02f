"""Serves DHCP in a slice's namespace: one dnsmasq a slice, which outlives ccfd."""

import asyncio
import contextlib
import hashlib
import signal
from collections.abc import Callable
from pathlib import Path

import structlog

from ccfd.errors import Refused, Transient
from ccfd.model import names
from ccfd.model.network import Dhcp, DhcpChange
from ccfd.network import detached, dhcp_files, processes, state
from ccfd.network.commands import CommandError, run
from ccfd.network.deaths import Deaths
from ccfd.network.dhcp_files import CONFIG, HOSTS, LEASES, PID, Files
from ccfd.network.leases import GivenLease, parse
from ccfd.network.processes import Server
from ccfd.settings import Settings

log = structlog.get_logger(__name__)

CHECK = "check.conf"
LOADED = "loaded"
"""What the running server has read: its pid, the digests of both files, and the mark of what they
say. Written after it was told, so that a ccfd that was killed in between tells it again."""

PATIENCE = 5.0
"""Seconds that a server may take to begin, and to end before it is killed."""

UNPRIVILEGED = "nobody"


class DhcpServers:
    """The slices' DHCP servers on this machine; all effects may be repeated.

    They raise `Refused` (`switch_error`: no namespace, another slice's directory, files that
    dnsmasq refuses) and `Transient` (`switch_error`, `timeout`). *died* is told the VNI of each
    server that ends without having been asked to.
    """

    def __init__(
        self,
        settings: Settings,
        died: Callable[[int], None] | None = None,
        *,
        systemd: bool | None = None,
    ) -> None:
        self._state = Path(settings.network_node.state).absolute()
        self._systemd = detached.under_systemd() if systemd is None else systemd
        self._deaths = None if died is None else Deaths(died)

    async def serve(self, dhcp: Dhcp) -> None:
        """Have the slice's server answer exactly `dhcp.leases`, whether it runs already or not."""
        place = state.folder(self._state, dhcp.vni)
        namespace = _namespace(dhcp.vni)
        if not namespace.exists():
            raise Refused(
                "switch_error", f"slice {dhcp.slice} has no namespace {namespace}: open it first"
            )
        state.claim(place, dhcp.slice)
        files = dhcp_files.render(dhcp, place, user=_user(place))
        try:
            with contextlib.ExitStack() as held:
                server = _find(dhcp.vni, place)
                if server is not None:
                    held.enter_context(server)
                await self._converge(dhcp, place, files, server)
        except CommandError as exc:
            raise exc.translate() from exc
        except OSError as exc:
            raise Transient("switch_error", f"cannot write in {place}: {exc.strerror}") from exc

    async def stop(self, dhcp: Dhcp) -> None:
        """End the slice's server, see that it is dead, remove its files. Another slice's stays."""
        place = state.folder(self._state, dhcp.vni)
        if state.owner(place) not in (None, dhcp.slice):
            return
        server = _find(dhcp.vni, place)
        if server is not None:
            with server:
                await self._end(dhcp.vni, server)
        state.forget(place, (CONFIG, HOSTS, LEASES, PID, CHECK, LOADED))

    async def change(self, change: DhcpChange) -> None:
        """Serve what holds after the change."""
        await self.serve(change.after)

    async def change_back(self, change: DhcpChange) -> None:
        """Serve what held before the change."""
        await self.serve(change.before)

    def mark(self, vni: int) -> str | None:
        """Return the mark of what the server of slice *vni* serves (`dhcp_files.mark`).

        None where none runs, empty where it may not have been told all that its files say.
        """
        place = state.folder(self._state, vni)
        if not ((place / PID).exists() or (place / CONFIG).exists()):
            return None
        server = _find(vni, place)
        if server is None:
            return None
        with server:
            self._watch(vni, server)
            told = (state.read(place / LOADED) or "").split()
            return told[3] if len(told) == 4 and told[0] == str(server.pid) else ""

    def given(self, vni: int) -> tuple[GivenLease, ...]:
        """Return the leases that the server of slice *vni* has given out."""
        return parse(state.read(state.folder(self._state, vni) / LEASES) or "")

    def close(self) -> None:
        """Watch the servers no more; they go on."""
        if self._deaths is not None:
            self._deaths.close()

    def _watch(self, vni: int, server: Server) -> None:
        if self._deaths is not None:
            self._deaths.watch(vni, server)

    async def _end(self, vni: int, server: Server) -> None:
        """End a server, and tell nobody."""
        if self._deaths is not None:
            self._deaths.forget(vni)
        await _end(server)

    async def _converge(self, dhcp: Dhcp, place: Path, files: Files, server: Server | None) -> None:
        wanted = [*_digests(files), dhcp_files.mark(dhcp)]
        told = (state.read(place / LOADED) or "").split()
        if server is not None:
            self._watch(dhcp.vni, server)
            if told == [str(server.pid), *wanted]:
                return
        await _put(files, place)
        if server is not None and told[:2] == [str(server.pid), wanted[0]]:
            server.signal(signal.SIGHUP)
            pid = server.pid
        else:
            if server is not None:
                await self._end(dhcp.vni, server)
            pid = await self._start(dhcp, place)
        state.write(place / LOADED, " ".join([str(pid), *wanted]) + "\n")
        log.info("dhcp serves", slice=dhcp.slice, vni=dhcp.vni, leases=len(dhcp.leases))

    async def _start(self, dhcp: Dhcp, place: Path) -> int:
        """Start the server and return its pid once it listens.

        dnsmasq binds before it writes its pid file; in the background, its parent ends only when
        it has begun, with an exit status and a reason when it has not.
        """
        (place / PID).unlink(missing_ok=True)
        argv = (
            *("ip", "netns", "exec", names.namespace(dhcp.vni)),
            *("dnsmasq", _argument(place)),
            *(("--keep-in-foreground",) if self._systemd else ()),
        )
        await run(
            detached.server(
                argv,
                unit=f"ccf-dhcp-{dhcp.vni}.service",
                description=f"DHCP of slice {dhcp.slice}",
                systemd=self._systemd,
            ),
            within=PATIENCE,
        )
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    server = _find(dhcp.vni, place, by_file=True)
                    if server is not None:
                        break
                    await asyncio.sleep(0.01)
        except TimeoutError as exc:
            raise Transient(
                "switch_error",
                f"dnsmasq of slice {dhcp.slice} did not begin within {PATIENCE:g} s: "
                "see the system log",
            ) from exc
        with server:
            self._watch(dhcp.vni, server)
            return server.pid


def _namespace(vni: int) -> Path:
    return state.NETNS / names.namespace(vni)


def _argument(place: Path) -> str:
    return f"--conf-file={place / CONFIG}"


def _find(vni: int, place: Path, *, by_file: bool = False) -> Server | None:
    """Return the slice's server if it runs: by its pid file, or by looking at every process."""
    argument, namespace = _argument(place), _namespace(vni)
    text = (state.read(place / PID) or "").strip()
    server = processes.hold(int(text), argument, namespace) if text.isdecimal() else None
    if server is not None or by_file:
        return server
    return processes.search(argument, namespace)


async def _end(server: Server) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        server.signal(number)
        if await server.ended(PATIENCE):
            return
    raise Transient("switch_error", f"dnsmasq (process {server.pid}) does not end")


async def _put(files: Files, place: Path) -> None:
    """Write both files, after dnsmasq found nothing wrong with them."""
    state.write(place / CHECK, dhcp_files.to_check(files))
    try:
        await run(["dnsmasq", "--test", f"--conf-file={place / CHECK}"])
    except CommandError as exc:
        raise Refused("switch_error", f"dnsmasq refuses {place / CHECK}: {exc.said}") from exc
    state.write(place / HOSTS, files.hosts)
    state.write(place / CONFIG, files.config)
    (place / CHECK).unlink()


def _digests(files: Files) -> list[str]:
    return [hashlib.sha256(text.encode()).hexdigest() for text in (files.config, files.hosts)]


def _user(place: Path) -> str:
    """Return whom dnsmasq shall be: nobody, who must be able to read the hosts file again."""
    for directory in (place, *place.parents):
        if not directory.stat().st_mode & 0o001:
            log.warning(
                "dnsmasq must run as root",
                reason="its directory is closed to others: chmod o+x",
                directory=str(directory),
            )
            return "root"
    return UNPRIVILEGED
