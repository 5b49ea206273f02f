"""The composition root: the one place that builds, joins, starts and stops the parts."""

import asyncio
import gc
import os
import signal
import socket
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import structlog
from aiohttp import web

from ccfd import __version__, pulse
from ccfd.bus.bus import Bus
from ccfd.console.consoles import Consoles
from ccfd.console.old_recordings import OldRecordings
from ccfd.errors import CcfdError, Refused
from ccfd.handlers.controller_watch import ControllerWatch
from ccfd.handlers.effects import effects
from ccfd.handlers.host_watch import HostWatch
from ccfd.handlers.image_upkeep import ImageUpkeep
from ccfd.handlers.imports import import_images, import_settings
from ccfd.handlers.reconcile import Reconciler
from ccfd.handlers.reconcile_events import repairs
from ccfd.handlers.reconcile_look import Look
from ccfd.handlers.recover import Recovery
from ccfd.handlers.registry import handlers
from ccfd.handlers.timers import Timers
from ccfd.handlers.vm_watch import VmWatch
from ccfd.http import console, console_page, dead, leases, reconcile, recover, ssh_key
from ccfd.http.api import Api
from ccfd.http.metrics import Metrics
from ccfd.http.port_metrics import PortMetrics
from ccfd.http.stream import Stream
from ccfd.http.topology import routes as topology_routes
from ccfd.model import names
from ccfd.network.dhcp import DhcpServers
from ccfd.network.endpoints import tls_context
from ccfd.network.fabric import Fabric
from ccfd.network.gateways import Gateways
from ccfd.network.guard_watch import GuardWatch
from ccfd.network.monitor import Monitor
from ccfd.network.namespace_watch import NamespaceWatch
from ccfd.network.namespaces import Namespaces
from ccfd.network.node import Node
from ccfd.notify import notify, watchdog
from ccfd.pulse import Pulse
from ccfd.settings import Settings
from ccfd.store import migrate
from ccfd.store.database import Database, DatabaseAway
from ccfd.vt.hypervisors import Hypervisors
from ccfd.vt.image_source import tell_ignored
from ccfd.vt.image_stores import image_store
from ccfd.vt.ssh_keys import SshKeys
from ccfd.workflow.backlog import Backlog
from ccfd.workflow.engine import Engine
from ccfd.workflow.intake import Intake
from ccfd.workflow.intervene import Interventions
from ccfd.workflow.lease import Lease
from ccfd.workflow.letters import DeadLetters
from ccfd.workflow.records import Flow, Records
from ccfd.workflow.revisit import Revisits
from ccfd.workflow.runner import Runner, progress
from ccfd.workflow.steps import Effects, Step

log = structlog.get_logger()

# Running steps may reach their record; systemd's TimeoutStopSec is longer.
STOP_WITHIN = 60.0
LOOP_TICK = 0.5
# A start waits so long for the image store.
IMPORT_WITHIN = 15.0


class Watching:
    """Tells of each step: to the broker, to event streams, to Prometheus."""

    def __init__(self, metrics: Metrics, stream: Stream, bus: Bus, database: Database) -> None:
        self._metrics = metrics
        self._stream = stream
        self._bus = bus
        self._clock = database.clock

    def step(self, flow: Flow, index: int, status: str) -> None:
        """Publish progress."""
        if status == "retrying":
            self._metrics.retrying(flow.steps.flat[index])
        body = flow.asked.body("progress", self._clock(), progress=progress(flow, index, status))
        self._stream.progress(body)
        self._bus.progress(body, flow.asked.correlation_id, flow.asked.traceparent)

    def attempt(self, step: Step, outcome: str, seconds: float) -> None:
        """Count."""
        self._metrics.attempt(step, outcome, seconds)


def spare_the_collector() -> None:
    """Have the garbage collector look only at what is made from now on, and less often.

    What is there stays; to walk through all of it again and again took a tenth of the time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


class Daemon:
    """ccfd, built from its settings.

    `drivers` replaces the effects (the tests' twins); no host is swept then.
    """

    def __init__(self, settings: Settings, drivers: Effects | None = None) -> None:
        self.settings = settings
        self.database = Database(settings.database)
        self.metrics = Metrics(self)
        parts = [part for part in pulse.PATIENCE if part != pulse.BROKER or settings.broker.url]
        self.pulse = Pulse(time.monotonic, {part: pulse.PATIENCE[part] for part in parts})
        self._images = image_store(settings)
        self._hypervisors = Hypervisors(settings, self._images)
        self._fabric = Fabric(settings)
        self.monitor = Monitor(settings)
        self._controller_watch = ControllerWatch(settings, self.database, self.monitor)
        self.monitor.listen(self._controller_watch.hear)
        self.metrics.registry.register(PortMetrics(self.monitor))
        self._has_hosts = drivers is None
        self._sweeps = self._has_hosts and settings.reconcile.every > 0
        self._namespaces = Namespaces(settings)
        self._dhcp = DhcpServers(
            settings, lambda vni: self._disturbed("DHCP server has died", names.namespace(vni))
        )
        self._namespace_watch = NamespaceWatch(settings, self._told("namespace is gone"))
        self._gateways = Gateways(settings, self._fabric)
        known = handlers(settings)
        # What only the reconciler sends is carried out like the rest, and refused from outside.
        ours = known | repairs(settings, self.metrics.repaired)
        self.intake = Intake(known, lambda _kind, reason: self.metrics.dead_letter(reason))
        effects = drivers or self._effects()
        self.records = Records(
            self.database,
            ours,
            self.intake,
            self.metrics.ended,
            concurrency=settings.workflow.concurrency,
        )
        self.interventions = Interventions(self.database, ours)
        self.lease = Lease(self.database)
        self.stream = Stream(self.database)
        self.bus = Bus(
            settings.broker,
            self.database,
            self.intake,
            self.metrics.dead_letter,
            lambda: self.lease.leads,
            turned=partial(self.pulse.turned, pulse.BROKER),
        )
        self._runner = Runner(
            effects,
            self.records,
            Watching(self.metrics, self.stream, self.bus, self.database),
            held=lambda: self.lease.held,
            step_timeout=settings.workflow.step_timeout,
            retries=settings.workflow.retries,
            clock=time.time,
            random=Random(),  # noqa: S311 - jitter
        )
        self.engine = Engine(
            self.database,
            Backlog(self.database, ours, effects),
            self.records,
            self._runner,
            self.lease,
            concurrency=settings.workflow.concurrency,
        )
        self._timers = Timers(
            self.database,
            self.intake,
            retention=timedelta(days=settings.workflow.retention_days),
            expired=self.metrics.expired,
            turned=partial(self.pulse.turned, pulse.DATABASE),
        )
        self._revisits = Revisits(
            self.database,
            self.interventions,
            lambda: self.lease.leads,
            first=settings.workflow.stuck_retry,
            clock=time.monotonic,
        )
        self._watch = HostWatch(
            settings, self.database, self._hypervisors, self._fabric, self._told("host is back")
        )
        own = Intake(ours, lambda _kind, reason: self.metrics.dead_letter(reason))
        self._vm_watch = VmWatch(
            settings,
            self.database,
            own,
            self._hypervisors.domains,
            self._told("libvirt is heard"),
        )
        look = Look(
            settings,
            switches=self._fabric,
            domains=self._hypervisors.domains,
            volumes=self._hypervisors.disks,
            node=Node(settings, self._namespaces, self._dhcp, self._gateways),
        )
        self._guards = GuardWatch(
            settings, self._fabric.guards, lambda: self.lease.leads, self.metrics.repaired
        )
        self._reconciler = Reconciler(
            settings,
            self.database,
            own,
            look,
            guards=self._guards,
            leads=lambda: self.lease.leads,
        )
        self._upkeep = ImageUpkeep(
            settings,
            self.database,
            self._hypervisors.images,
            self._images,
            lambda: self.lease.leads,
        )
        self._recovery = Recovery(settings, self.database, look)
        self._consoles = Consoles(
            settings.console,
            self.database,
            self._hypervisors.screens,
            self._hypervisors.serials,
            self._hypervisors.serial_logs,
            counters=self.metrics,
            tls=partial(tls_context, settings.tls),
        )
        self._ssh_keys = SshKeys(settings.slices.ssh_key_secrets)

    def _told(self, what: str) -> Callable[[str], None]:
        """Return what tells the sweep that *what* has happened to a host or a namespace."""
        return lambda where: self._disturbed(what, where)

    def _disturbed(self, what: str, where: str) -> None:
        if self._sweeps:
            self._reconciler.disturbed(what, where)

    def _effects(self) -> Effects:
        return effects(
            fabric=self._fabric,
            namespaces=self._namespaces,
            dhcp=self._dhcp,
            gateways=self._gateways,
            images=self._hypervisors.images,
            disks=self._hypervisors.disks,
            domains=self._hypervisors.domains,
            snapshots=self._hypervisors.snapshots,
        )

    def _ticked(self, lag: float) -> None:
        """Tell Prometheus how late the loop came, and who is there."""
        self.metrics.lag(lag)
        there = {
            pulse.LOOP: True,
            pulse.BROKER: self.bus.connected,
            pulse.DATABASE: self.database.is_up,
        }
        for part, is_there in there.items():
            if is_there:
                self.metrics.seen(part)

    def broker_connected(self) -> bool:
        """Tell whether the broker is connected."""
        return self.bus.connected

    def broker_consuming(self) -> bool:
        """Tell whether the broker knows of our consumer."""
        return self.bus.consuming

    def database_up(self) -> bool:
        """Tell whether the database answered last time."""
        return self.database.is_up

    def problems(self) -> dict[str, str]:
        """Say what is missing before this daemon can do its work."""
        found = {}
        if self.settings.broker.url and not self.bus.consuming:
            found["broker"] = self.bus.problem or "not connected yet"
        if not self.database.is_up:
            found["database"] = self.database.problem
        if not any(self._watch.up.values()):
            found["hosts"] = "no host is up"
        return found

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT."""
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        async with AsyncExitStack() as closing:
            await self._open(closing)
            spare_the_collector()
            async with asyncio.TaskGroup() as group:
                background = [
                    group.create_task(part, name=name)
                    for name, part in (
                        ("lease", self.lease.run()),
                        ("timers", self._timers.run()),
                        ("revisits", self._revisits.run()),
                        ("host watch", self._watch.run()),
                        *(self._hearing() if self._has_hosts else ()),
                        *(self._sweeping() if self._sweeps else ()),
                        *([("image upkeep", self._upkeep.run())] if self._has_hosts else []),
                        ("event stream", self.stream.run()),
                        ("consoles", self._consoles.run()),
                        ("old recordings", OldRecordings(self.settings.console).run()),
                        ("bus", self.bus.run()),
                        ("pulse", self.pulse.run(self._ticked)),
                        ("watchdog", watchdog(self.pulse.is_alive)),
                    )
                ]
                engine = group.create_task(self.engine.run(), name="engine")
                sites = await self._serve(closing)
                log.info("ccfd is ready", version=__version__, pid=os.getpid(), serving=sites)
                notify("READY=1")
                await stopping.wait()
                log.info("ccfd stops")
                notify("STOPPING=1")
                self.bus.stop_consuming()
                self.engine.stop()
                with suppress(TimeoutError):
                    async with asyncio.timeout(STOP_WITHIN):
                        await asyncio.wait([engine])
                engine.cancel()
                await self.bus.flush()
                for task in background:
                    task.cancel()
        log.info("ccfd has stopped")

    async def _open(self, closing: AsyncExitStack) -> None:
        """Open the database, migrate it, and import what the settings say."""
        self.database.take_hold()
        closing.push_async_callback(self.database.close)
        closing.push_async_callback(self._fabric.close)
        closing.callback(self._dhcp.close)
        closing.push_async_callback(self._images.close)
        closing.push_async_callback(self._hypervisors.close)
        if not self._ssh_keys.are_made:
            log.warning("slices get no ssh key", reason="[slices] ssh_key_secret is not set")
        while True:
            try:
                await migrate.upgrade(self.database)
                break
            except DatabaseAway as exc:
                log.warning("start waits for the database", reason=exc.message)
                await asyncio.sleep(1.0)
        await self.database.run(lambda tx: import_settings(self.settings, tx))
        await self._import_images()

    async def _import_images(self) -> None:
        """Take the list of images; a store that is away leaves the list as it is."""
        images = self.settings.images
        if images.directory is None and images.glance_url is None:
            return
        try:
            async with asyncio.timeout(IMPORT_WITHIN):
                found = await self._images.list()
            tell_ignored(found)
            await self.database.run(lambda tx: import_images(found.images, tx))
        except (CcfdError, TimeoutError) as exc:
            log.warning("images not imported", reason=str(exc) or "the store is slow")

    def _hearing(self) -> list[tuple[str, Coroutine[Any, Any, None]]]:
        """Return what has our picture of VMs and switches follow what their hosts tell."""
        self.monitor.listen(self._guards.hear)
        return [
            ("switch monitor", self.monitor.run()),
            ("controller watch", self._controller_watch.run()),
            ("guard watch", self._guards.run()),
            ("VM watch", self._vm_watch.run()),
            ("host events", self._hypervisors.events.run(self._vm_watch)),
        ]

    def _sweeping(self) -> list[tuple[str, Coroutine[Any, Any, None]]]:
        """Return what has hosts hold what the database says."""
        self.monitor.listen(self._reconciler.hear)
        return [
            ("reconciler", self._reconciler.run()),
            ("namespace watch", self._namespace_watch.run()),
        ]

    async def _serve(self, closing: AsyncExitStack) -> list[str]:
        """Serve the API on the UNIX socket and on TCP."""
        api = Api(
            self.settings,
            database=self.database,
            intake=self.intake,
            records=self.records,
            interventions=self.interventions,
            stream=self.stream,
            metrics=self.metrics,
            problems=self.problems,
            more=[
                *reconcile.routes(self._reconciler),
                *recover.routes(self._recovery),
                *dead.routes(DeadLetters(self.database, self.intake)),
                *leases.routes(self.database, self._dhcp.given),
                *console.routes(self._consoles, self.settings),
                *console_page.routes(self.settings.console.assets),
                *ssh_key.routes(self.database, self._ssh_keys),
                *topology_routes(self.settings, self.database, self.monitor),
            ],
        )
        config, sites = self.settings.http, []

        async def serve(application: web.Application) -> web.AppRunner:
            runner = web.AppRunner(application, access_log=None, shutdown_timeout=5.0)
            await runner.setup()
            closing.push_async_callback(runner.cleanup)
            return runner

        if config.socket:
            path = Path(config.socket)
            path.parent.mkdir(parents=True, exist_ok=True)
            runner = await serve(api.application("operator"))
            await web.SockSite(runner, _unix_socket(path)).start()
            closing.callback(path.unlink, missing_ok=True)
            sites.append(f"unix:{path}")
        if config.listen:
            host, _, port = config.listen.rpartition(":")
            runner = await serve(api.application(None))
            await _start(web.TCPSite(runner, host.strip("[]"), int(port)).start, config.listen)
            sites.append(config.listen)
        return sites


async def _start(start: Callable[[], object], where: str) -> None:
    try:
        await start()  # type: ignore[misc]  # aiohttp's sites start asynchronously
    except OSError as exc:
        raise Refused(
            "invalid_state", f"cannot listen on {where} ([http] listen): {exc.strerror}"
        ) from exc


def _unix_socket(path: Path) -> socket.socket:
    """Listen on *path*, mode 0660 from its first moment; a dead daemon's socket is replaced."""
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o117)
    try:
        sock.bind(str(path))
    finally:
        os.umask(before)
    return sock
