"""What `ccfd check` asks of each thing that ccfd needs. Nothing is made or changed by it."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from aio_pika import Connection
from sqlalchemy import text
from yarl import URL

from ccfd.bus.connection import CLOSE_WITHIN, EXPECTED, reason
from ccfd.cli.guard_probe import guard
from ccfd.cli.tls_probe import screens
from ccfd.console.files import Files
from ccfd.errors import CcfdError, Refused, Transient
from ccfd.model import names
from ccfd.network.commands import CommandError, run
from ccfd.network.detached import under_systemd
from ccfd.network.ovsdb import Ovsdb
from ccfd.settings import Console, Host, Settings, Tls
from ccfd.store import migrate
from ccfd.store.database import Database, DatabaseAway
from ccfd.vt.capacity import offers_kvm
from ccfd.vt.hypervisors import Hypervisors
from ccfd.vt.image_source import ImageSource
from ccfd.vt.image_stores import image_store
from ccfd.vt.session import Session

# What the network node's part runs; `nft` and `ip` by what they are needed for.
PROGRAMS = {
    "dnsmasq": ("dnsmasq", "--version"),
    "nft": ("nft", "list", "tables"),
    "ip": ("ip", "netns", "list"),
    "ethtool": ("ethtool", "--version"),
    "ovs-ofctl": ("ovs-ofctl", "--version"),
    "sysctl": ("sysctl", "--version"),
}
PACKAGES = {
    "dnsmasq": "dnsmasq-base",
    "nft": "nftables",
    "ip": "iproute2",
    "ovs-ofctl": "openvswitch-common",
    "sysctl": "procps",
}
SELECT_VERSION = {"op": "select", "table": "Open_vSwitch", "where": [], "columns": ["ovs_version"]}


class Warned(Exception):
    """It does, but something can't be done or could be better; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A question: *ask* returns what was found, or raises `CcfdError` or `Warned`."""

    what: str
    ask: Callable[[], Awaitable[str]]


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[list[Probe]]:
    """List the probes of *settings*; what they open is closed at the end."""
    images = image_store(settings)
    hypervisors = Hypervisors(settings, images)
    try:
        yield _all(settings, images, hypervisors)
    finally:
        await hypervisors.close()
        await images.close()


def _all(settings: Settings, images: ImageSource, hypervisors: Hypervisors) -> list[Probe]:
    node = settings.network_node
    probes = [
        Probe("broker", partial(broker, settings.broker.url)),
        Probe("database", partial(database, settings)),
    ]
    for host in settings.host:
        wanted = settings.hypervisor.domain_type
        probes += [
            Probe(f"{host.name}: libvirt", partial(libvirt, hypervisors, host)),
            Probe(f"{host.name}: KVM", partial(kvm, hypervisors, host, wanted)),
            Probe(f"{host.name}: switch", partial(switch, host.ovsdb, settings.tls)),
        ]
        if host.tunnel_ip != node.tunnel_ip:
            probes.append(
                Probe(f"{host.name}: guard", partial(guard, host.name, host, settings.tls))
            )
    probes.append(Probe("node: switch", partial(switch, node.ovsdb, settings.tls)))
    if any(host.tunnel_ip == node.tunnel_ip for host in settings.host):
        # That host's VMs are on the node's own switch.
        probes.append(Probe("node: guard", partial(guard, names.NODE, node, settings.tls)))
    probes += [Probe(f"node: {name}", partial(program, name)) for name in PROGRAMS]
    if under_systemd():
        probes.append(Probe("node: systemd-run", partial(run_program, "systemd-run", "--version")))
    if any(network.type == 2 for network in settings.network):
        probes.append(Probe("node: way out", partial(way_out, node.external_interface)))
    if any(host.vnc == "tls" for host in settings.host):
        probes.append(Probe("console: TLS", partial(screens, settings)))
    return [
        *probes,
        Probe("images", partial(listed, images, settings)),
        Probe("console", partial(page, settings.console)),
        Probe("settings", partial(whole, settings)),
    ]


async def broker(url: str) -> str:
    """Connect, as ccfd would, and declare nothing."""
    if not url:
        return "none: events come by HTTP only"
    address = URL(url)
    where = f"{address.host}:{address.port or 5672}"
    connection = Connection(address, client_properties={"connection_name": "ccfd check"})
    try:
        await connection.connect()
        await connection.channel().initialize()
    except EXPECTED as exc:
        raise Refused(
            "invalid_state",
            f"{where}: {reason(exc)}; see that RabbitMQ runs there, and that user, password and"
            " virtual host of [broker] url are right",
        ) from exc
    finally:
        with suppress(Exception):
            async with asyncio.timeout(CLOSE_WITHIN):
                await connection.close()
    return f"RabbitMQ at {where}"


async def database(settings: Settings) -> str:
    """Connect, and compare the tables with this release's."""
    opened = Database(settings.database)
    if opened.file is not None and not opened.file.exists():
        return _to_be_made(opened.file)
    try:
        return await _compared(opened)
    except DatabaseAway as exc:
        advice = "see that it runs, and that user, password and name of [database] url are right"
        raise Refused(exc.code, f"{exc.message}; {advice}") from exc
    finally:
        await opened.close()


async def _compared(opened: Database) -> str:
    stands = await migrate.compare(opened)
    if opened.is_sqlite:
        return f"SQLite, {stands}"
    async with opened.read() as transaction:
        version = await transaction.scalar(text("SHOW server_version"))
    return f"PostgreSQL {version}, {stands}"


def _to_be_made(path: Path) -> str:
    known = next(parent for parent in path.parents if parent.is_dir())
    if not os.access(known, os.W_OK | os.X_OK):
        raise Refused("invalid_state", f"{path} cannot be made: {known} may not be written to")
    return f"SQLite, to be made at {path}"


async def libvirt(hypervisors: Hypervisors, host: Host) -> str:
    """Ask for the version of libvirt."""
    number = await hypervisors.lanes[host.name].call(_version)
    return f"{number // 1_000_000}.{number // 1_000 % 1_000}.{number % 1_000} at {host.libvirt}"


def _version(session: Session) -> int:
    return session.connection.getLibVersion()


async def kvm(hypervisors: Hypervisors, host: Host, wanted: str) -> str:
    """Tell whether VMs run on the processor."""
    if wanted == "qemu":
        return "not wanted: [hypervisor] domain_type is qemu"
    try:
        offered = await hypervisors.lanes[host.name].call(_offers_kvm)
    except Transient as exc:
        raise Warned("not known: libvirt does not answer") from exc
    if offered:
        return "offered"
    advice = (
        "switch on virtualization in its firmware (nested, where it is a VM itself), load the"
        " module kvm_intel or kvm_amd, and restart libvirtd"
    )
    if wanted == "kvm":
        raise Refused("invalid_state", f"not offered, and [hypervisor] domain_type asks: {advice}")
    raise Warned(f"not offered: VMs are emulated, which is slow; {advice}")


def _offers_kvm(session: Session) -> bool:
    return offers_kvm(session.connection.getCapabilities())


async def switch(address: str, tls: Tls) -> str:
    """Ask Open vSwitch for its version, and whether ovs-vswitchd keeps up."""
    db = Ovsdb(address, tls)
    try:
        (found,) = await db.transact([SELECT_VERSION])
        # Nothing but a new number for the configuration, which ovs-vswitchd has to take up.
        await db.transact_applied([])
    except CcfdError as exc:
        advice = (
            "start Open vSwitch there"
            if address.startswith("unix:")
            else "start Open vSwitch there, have it listen (ovs-vsctl set-manager), see [tls]"
        )
        raise Refused(exc.code, f"{exc.message}; {advice}") from exc
    finally:
        await db.close()
    return f"Open vSwitch {found['rows'][0]['ovs_version']} at {address}"


async def program(name: str) -> str:
    """Run one of the programs that ccfd runs here."""
    return await run_program(*PROGRAMS[name])


async def run_program(*argv: str) -> str:
    """Run a program and return the first line of what it prints."""
    try:
        printed = await run(argv)
    except CommandError as exc:
        raise Refused("invalid_state", f"{exc}; ccfd needs the rights of its unit") from exc
    except Refused as exc:
        package = PACKAGES.get(argv[0], argv[0])
        raise Refused(exc.code, f"{argv[0]} is not there: install the package {package}") from exc
    version = argv[-1] == "--version"
    return printed.partition("\n")[0] if version else f"`{' '.join(argv)}` works"


async def way_out(interface: str) -> str:
    """See that the interface is there that gateways go out by."""
    try:
        await run(("ip", "link", "show", "dev", interface))
    except CommandError as exc:
        raise Refused(
            "invalid_state",
            f"there is no {interface}: make it, or set [network_node] external_interface",
        ) from exc
    return interface


async def listed(images: ImageSource, settings: Settings) -> str:
    """Count the images."""
    if settings.images.directory is None and settings.images.glance_url is None:
        raise Warned("no store: set [images] directory or glance_url, or no VM can be made")
    listing = await images.list()
    if not listing.images:
        raise Warned("the store has no image that can be used: no VM can be made")
    ignored = f", {len(listing.ignored)} ignored" if listing.ignored else ""
    return f"{len(listing.images)} in the store{ignored}"


async def page(settings: Console) -> str:
    """Look for what the console's page needs."""
    files = Files.at(settings.assets)
    missing = await asyncio.to_thread(files.missing)
    if missing:
        raise Warned(
            f"{files.assets} lacks {', '.join(missing)}: no console opens in a browser. "
            f"Run tools/console-assets {files.assets}, or set [console] assets"
        )
    return f"its page's parts are in {files.assets}"


async def whole(settings: Settings) -> str:
    """Name what the settings lack."""
    lacks = [
        lack
        for lack, there in (
            ("no [[host]]: no VM can be made", settings.host),
            (
                "no [[network]] of type 1: no slice can be made",
                any(network.type == 1 for network in settings.network),
            ),
            (
                "no [slices] ssh_key_secret_file: slices get no SSH key of their own",
                settings.slices.ssh_key_secrets,
            ),
        )
        if not there
    ]
    if lacks:
        raise Warned("; ".join(lacks))
    return "nothing is missing"
