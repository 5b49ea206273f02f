"""Opens a slice's network namespace on the machine where ccfd runs, and closes it."""

from collections.abc import Iterable
from pathlib import Path

from ccfd.model import names
from ccfd.model.network import Namespace
from ccfd.network import detached, state
from ccfd.network.commands import CommandError, run
from ccfd.network.links import INSIDE, Link, Present, open_leg, read_links
from ccfd.settings import Settings


class Namespaces:
    """The slices' namespaces, each joined to its bridge by a veth pair.

    Both effects may be repeated. They raise `Refused` (`switch_error`: another slice's, a program
    is missing) and `Transient` (`switch_error`, `timeout`).
    """

    def __init__(self, settings: Settings, *, systemd: bool | None = None) -> None:
        self._state = Path(settings.network_node.state)
        self._systemd = detached.under_systemd() if systemd is None else systemd

    async def open(self, namespace: Namespace) -> None:
        """Make the namespace with loopback and its leg `inside`, or complete what stands.

        When the leg had to be made anew, the bridge's port must be made (or plugged) after this.
        """
        state.claim(state.folder(self._state, namespace.vni), namespace.slice)
        try:
            await self._carry_out(namespace, await self._look(namespace.vni))
        except CommandError:
            # The kernel may have taken down, in between, what an earlier namespace left: once more.
            try:
                await self._carry_out(namespace, await self._look(namespace.vni))
            except CommandError as exc:
                raise exc.translate() from exc

    async def close(self, namespace: Namespace) -> None:
        """Remove the leg and the namespace's name.

        A process that is still in the namespace keeps it alive, without a name or a link to the
        bridge. Another slice's namespace is left alone.
        """
        place = state.folder(self._state, namespace.vni)
        if state.owner(place) not in (None, namespace.slice):
            return
        name = names.namespace(namespace.vni)
        outer = names.inside_port(namespace.vni)
        try:
            # The kernel takes a namespace down in its own time; a link that is deleted by name is
            # gone when the command ends.
            await delete_link(outer)
            if (state.NETNS / name).exists():
                await self._outside("ip", "netns", "delete", name)
        except CommandError as exc:
            raise exc.translate() from exc
        state.forget(place, ("slice",))

    async def joined(self, vnis: Iterable[int]) -> frozenset[int]:
        """Return those of the slices *vnis* whose namespace stands and has its leg out of it."""
        try:
            links = await look_at_links()
        except CommandError as exc:
            raise exc.translate() from exc
        return frozenset(
            vni
            for vni in vnis
            if names.inside_port(vni) in links and is_namespace(state.NETNS / names.namespace(vni))
        )

    async def _look(self, vni: int) -> Present:
        name = names.namespace(vni)
        try:
            outer = (await look_at_links()).get(names.inside_port(vni))
            if not is_namespace(state.NETNS / name):
                return Present(outer=outer)
            within = await look_at_links("-netns", name)
        except CommandError as exc:
            raise exc.translate() from exc
        return Present(
            namespace=True,
            outer=outer,
            inner=within.get(INSIDE),
            loopback="lo" in within and within["lo"].up,
        )

    async def _make_namespace(self, name: str) -> None:
        if (state.NETNS / name).exists():  # its file, without a namespace: a half-made one
            await self._outside("ip", "netns", "delete", name)
        await self._outside("ip", "netns", "add", name)

    async def _carry_out(self, namespace: Namespace, present: Present) -> None:
        name = names.namespace(namespace.vni)
        if not present.namespace:
            await self._make_namespace(name)
        work = open_leg(namespace, present)
        for lines, options in (
            (work.clear, ("-netns", name)),
            (work.here, ()),
            (work.within, ("-netns", name)),
        ):
            if lines:
                await run(["ip", *options, "-batch", "-"], text="\n".join(lines) + "\n")
        # A veth leg of a userspace switch must fill in checksums itself: with offload on, ping
        # works and every TCP and UDP datagram arrives with a wrong one. No answer to compare
        # with costs as little as asking: ethtool(8) changes nothing where it is so already.
        await run(["ip", "netns", "exec", name, "ethtool", "-K", INSIDE, "tx", "off"])

    async def _outside(self, *argv: str) -> None:
        await run(detached.outside(argv, systemd=self._systemd))


async def look_at_links(*options: str) -> dict[str, Link]:
    """Return the links of ccfd's namespace, or of what the *options* of ip(8) say."""
    return read_links(await run(["ip", *options, "-json", "-details", "address", "show"]))


async def delete_link(name: str) -> None:
    """Delete a link; that it goes by itself in between is well, too."""
    if name not in await look_at_links():
        return
    try:
        await run(["ip", "link", "delete", name])
    except CommandError:
        if name in await look_at_links():
            raise


def is_namespace(path: Path) -> bool:
    """Tell whether a namespace is mounted on the file, rather than the file left over."""
    try:
        return path.stat().st_dev == Path("/proc/self/ns/net").stat().st_dev
    except FileNotFoundError:
        return False
