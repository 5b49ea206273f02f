"""What Prometheus scrapes: counters kept by this daemon, gauges read from the database."""

from collections.abc import Iterator
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from sqlalchemy import func, select

from ccfd import __version__
from ccfd.ipam import networks
from ccfd.store import tables
from ccfd.store.database import Transaction
from ccfd.workflow.steps import Step

EVENT_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
LAG_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
STEP_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class State(Protocol):
    """What the daemon knows of itself."""

    def broker_connected(self) -> bool:
        """Tell whether the broker is connected."""

    def broker_consuming(self) -> bool:
        """Tell whether the broker knows of our consumer."""

    def database_up(self) -> bool:
        """Tell whether the database answered last time."""


class Metrics:
    """The daemon's own counters, in a registry of their own."""

    def __init__(self, state: State) -> None:
        self.registry = CollectorRegistry()
        kept = self.registry
        self._events = Counter("ccfd_events", "Ended requests", ["type", "outcome"], registry=kept)
        self._event_seconds = Histogram(
            "ccfd_event_duration_seconds",
            "Seconds from the storing of a request to its end",
            ["type", "outcome"],
            buckets=EVENT_BUCKETS,
            registry=kept,
        )
        self._step_seconds = Histogram(
            "ccfd_step_duration_seconds",
            "Seconds that one attempt at a step took",
            ["step", "outcome"],
            buckets=STEP_BUCKETS,
            registry=kept,
        )
        self._retries = Counter(
            "ccfd_step_retries", "Attempts at a step after its first", ["step"], registry=kept
        )
        self._dead = Counter(
            "ccfd_dead_letters", "Messages that can never be carried out", ["reason"], registry=kept
        )
        self._expirations = Counter(
            "ccfd_subnet_expirations", "Reservations that expired", registry=kept
        )
        self._repairs = Counter(
            "ccfd_reconcile_repairs", "Differences put right", ["kind"], registry=kept
        )
        Gauge(
            "ccfd_broker_connected", "1 while the broker is connected", registry=kept
        ).set_function(lambda: float(state.broker_connected()))
        Gauge(
            "ccfd_broker_consumer", "1 while the broker delivers events to ccfd", registry=kept
        ).set_function(lambda: float(state.broker_consuming()))
        self._seen = Gauge(
            "ccfd_last_heartbeat_timestamp_seconds",
            "When the event loop turned last, when broker and database were last there",
            ["of"],
            registry=kept,
        )
        self._lag = Histogram(
            "ccfd_loop_lag_seconds",
            "By how much the event loop came late, twice a second",
            buckets=LAG_BUCKETS,
            registry=kept,
        )
        Gauge("ccfd_database_up", "1 while the database answers", registry=kept).set_function(
            lambda: float(state.database_up())
        )
        self._console_sessions = Gauge(
            "ccfd_console_sessions", "Consoles that this ccfd serves now", registry=kept
        )
        self._console_bytes = Counter(
            "ccfd_console_bytes",
            "Bytes relayed between consoles and their viewers",
            ["direction"],
            registry=kept,
        )
        for direction in ("to_viewer", "from_viewer"):
            self._console_bytes.labels(direction)
        Gauge("ccfd_build_info", "The release that runs", ["version"], registry=kept).labels(
            __version__
        ).set(1)

    def ended(self, kind: str, outcome: str, seconds: float) -> None:
        """Count an ended request."""
        self._events.labels(kind, outcome).inc()
        self._event_seconds.labels(kind, outcome).observe(seconds)

    def attempt(self, step: Step, outcome: str, seconds: float) -> None:
        """Count one attempt at a step."""
        self._step_seconds.labels(step.name, outcome).observe(seconds)

    def retrying(self, step: Step) -> None:
        """Count a step that is tried again."""
        self._retries.labels(step.name).inc()

    def dead_letter(self, reason: str) -> None:
        """Count a dead letter."""
        self._dead.labels(reason).inc()

    def expired(self, count: int) -> None:
        """Count reservations that expired."""
        self._expirations.inc(count)

    def lag(self, seconds: float) -> None:
        """Note by how much the event loop came late."""
        self._lag.observe(seconds)

    def seen(self, what: str) -> None:
        """Note that *what* is there now."""
        self._seen.labels(what).set_to_current_time()

    def repaired(self, kind: str) -> None:
        """Count something that was put back or removed."""
        self._repairs.labels(kind).inc()

    def console_sessions(self, number: int) -> None:
        """Note how many consoles are open."""
        self._console_sessions.set(number)

    def console_bytes(self, direction: str, number: int) -> None:
        """Count bytes that were relayed, `to_viewer` or `from_viewer`."""
        self._console_bytes.labels(direction).inc(number)

    def text(self) -> bytes:
        """Return the daemon's own counters in Prometheus's text format."""
        return generate_latest(self.registry)


class Collected:
    """Metric families that are ready."""

    def __init__(self, families: list[GaugeMetricFamily]) -> None:
        self._families = families

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield them."""
        yield from self._families


async def gauges(transaction: Transaction) -> bytes:
    """Return the gauges that the database holds, in Prometheus's text format."""
    workflows = GaugeMetricFamily("ccfd_workflows", "Workflows", labels=["state"])
    request = tables.request
    for row in await transaction.all(
        select(request.c.state, func.count().label("number"))
        .where(request.c.unfinished)
        .group_by(request.c.state)
    ):
        workflows.add_metric([row.state], row.number)

    vms = GaugeMetricFamily("ccfd_vms", "VMs", labels=["state", "host"])
    for row in await transaction.all(
        select(tables.vm.c.state, tables.vm.c.host, func.count().label("number")).group_by(
            tables.vm.c.state, tables.vm.c.host
        )
    ):
        vms.add_metric([row.state, row.host or ""], row.number)

    up = GaugeMetricFamily("ccfd_host_up", "1 while the host answers", labels=["host"])
    capacity = GaugeMetricFamily(
        "ccfd_host_capacity", "What the host has (vCPUs, MiB, GiB)", labels=["host", "resource"]
    )
    in_use = GaugeMetricFamily(
        "ccfd_host_used", "What VMs claim of it (vCPUs, MiB, GiB)", labels=["host", "resource"]
    )
    for row in await transaction.all(select(tables.host).where(tables.host.c.configured)):
        up.add_metric([row.name], float(row.up))
        for resource in ("cpu", "ram", "disk"):
            capacity.add_metric([row.name, resource], getattr(row, f"{resource}_total"))
            in_use.add_metric([row.name, resource], getattr(row, f"{resource}_used"))

    subnets = GaugeMetricFamily("ccfd_subnets", "Subnets", labels=["network", "state"])
    for row in await transaction.all(
        select(
            tables.subnet.c.network, tables.subnet.c.state, func.count().label("number")
        ).group_by(tables.subnet.c.network, tables.subnet.c.state)
    ):
        subnets.add_metric([row.network, row.state], row.number)

    addresses = GaugeMetricFamily("ccfd_addresses", "Addresses", labels=["network", "state"])
    known = await transaction.all(select(tables.network))
    for cidr, (total, used) in (await networks.usage(known, transaction)).items():
        addresses.add_metric([cidr, "used"], used)
        addresses.add_metric([cidr, "free"], total - used)

    registry = CollectorRegistry()
    registry.register(Collected([workflows, vms, up, capacity, in_use, subnets, addresses]))
    return generate_latest(registry)
