"""What may become of a request between the look that finds it waiting and its turn to act."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ccfd.requests.decode import Event
from ccfd.workflow.intake import Intake
from ccfd.workflow.intervene import Interventions
from tests.unit.workflow.lives import Cluster, Life, Store, unwatched
from tests.unit.workflow.shelves import HANDLERS, OWN, Fault, Verb, World


class Shelves:
    """One daemon that carries out one workflow at a time."""

    def __init__(self, empty: Path) -> None:
        self.store = Store(empty, OWN)
        self.world = World(self.store)
        self.cluster = Cluster(self.store, HANDLERS, self.world.effects, unwatched)
        self.people = Interventions(self.cluster.link, HANDLERS)
        self._intake = Intake(HANDLERS, lambda _kind, _code: None)
        self.daemon: Life = self.cluster.start()
        self.cluster.elapse(1.0)

    def send(self, kind: str, name: str, key: str) -> None:
        data = {"key": key, "name": name, "shape": () if kind == "clear" else (1,)}
        event = Event(message_id=name, type=kind, data=data, correlation_id=name)
        self.cluster.ask(self.cluster.link.run(lambda tx: self._intake.store(event, tx)))

    def fail(self, verb: Verb, name: str, fault: Fault) -> None:
        self.world.faults[verb, f"{name}/0.0"].append(fault)

    def row(self, name: str) -> Any:
        return self.store.requests("request_id = ?", name)[0]


@pytest.fixture
def shelves(empty_database: Path) -> Iterator[Shelves]:
    made = Shelves(empty_database)
    yield made
    made.cluster.close()
    made.store.close()


def busy_with(name: str, shelves: Shelves) -> None:
    """Have the daemon's only hand full when it has just looked at all that waits."""
    shelves.fail(Verb.MAKE, name, Fault.HANGS)
    shelves.send("put", name, "z")


def test_a_clearing_that_is_cancelled_while_it_waits_takes_nothing(shelves: Shelves) -> None:
    shelves.send("put", "put", "a")
    shelves.cluster.elapse(1.0)
    busy_with("busy", shelves)
    shelves.send("clear", "clear", "a")
    shelves.cluster.elapse(0.1)
    assert [shelves.row(name)["state"] for name in ("busy", "clear")] == ["running", "queued"]
    shelves.cluster.ask(shelves.people.cancel("clear"))
    shelves.world.answer(shelves.world.hanging[0], Fault.FINE)
    shelves.cluster.elapse(5.0)
    assert '"cancelled"' in shelves.row("clear")["terminal"]
    assert "put/0.0" in shelves.world.things


def test_a_creation_that_is_cancelled_while_it_waits_touches_no_host(shelves: Shelves) -> None:
    busy_with("busy", shelves)
    shelves.send("put", "put", "a")
    shelves.fail(Verb.UNDO, "put", Fault.REFUSED)
    shelves.cluster.elapse(0.1)
    shelves.cluster.ask(shelves.people.cancel("put"))
    shelves.world.answer(shelves.world.hanging[0], Fault.FINE)
    shelves.cluster.elapse(5.0)
    assert shelves.row("put")["state"] == "failed"
    assert "put" not in shelves.world.begun


def test_a_waiting_request_lets_the_retry_of_a_stuck_one_pass(shelves: Shelves) -> None:
    shelves.fail(Verb.MAKE, "stuck", Fault.REFUSED)
    shelves.fail(Verb.UNDO, "stuck", Fault.REFUSED)
    shelves.send("put", "stuck", "a")
    shelves.cluster.elapse(1.0)
    assert shelves.row("stuck")["state"] == "stuck"
    busy_with("busy", shelves)
    shelves.send("clear", "clear", "a")
    shelves.cluster.elapse(0.1)
    shelves.cluster.ask(shelves.people.retry("stuck"))
    shelves.world.answer(shelves.world.hanging[0], Fault.FINE)
    shelves.cluster.elapse(60.0)
    assert [shelves.row(name)["state"] for name in ("stuck", "clear")] == ["failed", "succeeded"]


NAMES = ("one", "two", "busy", "ahead", "behind")


def burst(shelves: Shelves) -> None:
    """Have five wait at once: two are quick, the third keeps the daemon's only hand full."""
    shelves.fail(Verb.MAKE, "busy", Fault.HANGS)
    for name in NAMES:
        shelves.send("put", name, name)
    shelves.cluster.elapse(1.0)


def states(shelves: Shelves) -> list[str]:
    return [shelves.row(name)["state"] for name in NAMES]


def test_in_a_burst_the_next_begins_ahead_but_acts_when_it_is_its_turn(shelves: Shelves) -> None:
    burst(shelves)
    assert states(shelves) == ["succeeded", "succeeded", "running", "running", "queued"]
    assert "ahead" not in shelves.world.begun
    shelves.world.answer(shelves.world.hanging[0], Fault.FINE)
    shelves.cluster.elapse(5.0)
    assert states(shelves) == ["succeeded"] * 5


def test_where_they_end_slowly_nothing_begins_ahead(shelves: Shelves) -> None:
    shelves.fail(Verb.MAKE, "one", Fault.HANGS)
    shelves.fail(Verb.MAKE, "two", Fault.HANGS)
    for name in ("one", "two", "next"):
        shelves.send("put", name, name)
    shelves.cluster.elapse(1.0)
    shelves.world.answer(shelves.world.hanging[0], Fault.FINE)
    shelves.cluster.elapse(1.0)
    assert [shelves.row(name)["state"] for name in ("one", "two")] == ["succeeded", "running"]
    assert shelves.row("next")["state"] == "queued"


def test_what_began_ahead_and_is_cancelled_touches_no_host(shelves: Shelves) -> None:
    burst(shelves)
    shelves.fail(Verb.UNDO, "ahead", Fault.REFUSED)
    shelves.cluster.ask(shelves.people.cancel("ahead"))
    shelves.world.answer(shelves.world.hanging[0], Fault.FINE)
    shelves.cluster.elapse(5.0)
    assert states(shelves) == ["succeeded"] * 3 + ["failed", "succeeded"]
    assert "ahead" not in shelves.world.begun


def test_what_began_ahead_is_left_for_the_next_start(shelves: Shelves) -> None:
    burst(shelves)
    shelves.daemon.engine.stop()
    shelves.world.answer(shelves.world.hanging[0], Fault.FINE)
    shelves.cluster.elapse(5.0)
    assert shelves.daemon.ended
    assert states(shelves) == ["succeeded"] * 3 + ["running", "queued"]
    assert "ahead" not in shelves.world.begun
    shelves.cluster.start()
    shelves.cluster.elapse(5.0)
    assert states(shelves) == ["succeeded"] * 5
