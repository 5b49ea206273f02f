"""Whatever happens in whatever order, every request ends once, as all done or as nothing done.

Hypothesis plays histories of daemons that are killed, frozen, cut off from the database and
stopped, on hosts that fail, hang and answer late, while people ask, cancel, retry and give up. The
engine is the real one (`lives` says what is not); after each move everything is compared with
what the engine promises, and each history is drained at last: all that can end must have ended.

A default run plays a few dozen histories in seconds. `ENGINE_EXAMPLES=2000 ENGINE_STEPS=30` in
the environment (and `--timeout 0`) has it look longer; with `CI` set the histories are always the
same ones, as with every hypothesis test.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from structlog.testing import capture_logs

from ccfd.errors import Refused
from ccfd.requests.decode import Event
from ccfd.workflow.intake import Intake
from ccfd.workflow.intervene import Interventions
from ccfd.workflow.lease import LEASE
from tests.unit.workflow.lives import SIGN, Cluster, Life, Store
from tests.unit.workflow.shelves import HANDLERS, OWN, Body, Fault, Verb, World

T = TypeVar("T")

EXAMPLES = int(os.environ.get("ENGINE_EXAMPLES", "20"))
STEPS = int(os.environ.get("ENGINE_STEPS", "25"))

# A request that is cancelled while it waits begins all the same if the engine has seen it before:
# `test_waiting` expects that to fail. True here asks for it in every history.
HEARS_WHILE_WAITING = True
HARMS = ("kill", "kill", "freeze", "stop", "before", "after")
MOST_LIVES = 2
PATIENCE = 90
"""Seconds of virtual time within which everything ends, once nothing fails any more."""

OPEN = ("queued", "running", "undoing")
KEYS = st.sampled_from("ab")
PICK = st.integers(0, 7)
SHAPES = st.sampled_from(((1,), (2,), (1, 1), (1, 2), (2, 1, 1), (1, 1, 1), ()))
PACES = st.sampled_from((None, 3, 10, 0))
"""Turns of each loop between two moves; None: until all wait, for half a second."""
FAULTS = (Fault.REFUSED, Fault.HANGS, Fault.TRANSIENT, Fault.LOST, Fault.SPOILT, Fault.DEFECT)
Troubles = list[tuple[int, Verb, list[Fault]]]
"""Which thing (by its number), what is done to it, and how the first calls to do so end."""
TROUBLES: st.SearchStrategy[Troubles] = st.one_of(
    st.just([]),
    # It cannot be done, nor undone; it hangs, going forward or back.
    st.just([(-1, Verb.MAKE, [Fault.REFUSED]), (0, Verb.UNDO, [Fault.REFUSED])]),
    st.just([(0, Verb.MAKE, [Fault.HANGS] * 2), (0, Verb.TAKE, [Fault.HANGS] * 2)]),
    st.just([(-1, Verb.MAKE, [Fault.SPOILT]), (0, Verb.UNDO, [Fault.HANGS] * 2)]),
    st.lists(
        st.tuples(
            PICK,
            st.sampled_from((Verb.MAKE, Verb.UNDO, Verb.MAKE, Verb.TAKE)),
            st.lists(st.sampled_from(FAULTS), min_size=1, max_size=3),
        ),
        max_size=4,
    ),
)
ANSWERS = st.sampled_from((Fault.FINE, Fault.FINE, Fault.LOST, Fault.REFUSED, Fault.SPOILT))


@dataclass
class Sent:
    """A request, and what is known of it from outside."""

    event: Event
    key: str
    names: list[list[str]]
    copies: int = 0
    is_cancelled: bool = False
    """It was cancelled before it began."""
    must_fail: bool = False
    """It was cancelled when there was time enough to hear of it."""
    terminal: str | None = None


def move(**given: Any) -> Callable[[Callable[..., None]], Any]:
    """Make a rule of something that happens, after which the daemons go on at their pace."""

    def decorate(act: Callable[..., None]) -> Any:
        @wraps(act)
        def moved(self: "Machine", **drawn: Any) -> None:
            act(self, **drawn)
            self.proceed()

        decorated: Any = rule(**given)(moved)  # type: ignore[no-untyped-call]  # hypothesis
        return decorated

    return decorate


class Machine(RuleBasedStateMachine):
    """One history."""

    def __init__(self, store: Store, logs: list[Any]) -> None:
        super().__init__()
        self.store = store
        self.logs = logs
        logs.clear()
        store.empty("workflow", "request", "outbox", "daemon", "shelf", "story")
        self.world = World(store)
        self.cluster = Cluster(store, HANDLERS, self.world.effects, self.nothing_of_others_changes)
        self.intake = Intake(HANDLERS, lambda _kind, _code: None)
        self.people = Interventions(self.cluster.link, HANDLERS)
        self.sent: dict[str, Sent] = {}
        self.pace: int | None = None

    @initialize(lives=st.sampled_from((2, 1)), concurrency=st.integers(1, 2), pace=PACES)
    def begin(self, lives: int, concurrency: int, pace: int | None) -> None:
        self.cluster.concurrency = concurrency
        for _ in range(lives):
            self.cluster.start()
        self.cluster.elapse(1.0)
        self.pace = pace

    def proceed(self) -> None:
        if self.pace is None:
            self.cluster.elapse(0.5)
        elif self.pace:
            self.cluster.go_on(self.pace)

    # What people do.

    @move(
        kind=st.sampled_from(("fill", "fill", "fill", "clear", "put", "swap")),
        key=KEYS,
        shape=SHAPES,
        troubles=TROUBLES,
    )
    def send(
        self,
        kind: str,
        key: str,
        shape: tuple[int, ...],
        troubles: Troubles,
    ) -> None:
        if kind == "fill":
            is_used = self.store.look("SELECT * FROM shelf WHERE key = ?", key)
            kind = "swap" if is_used else "put"
        name = f"{kind}{len(self.sent)}"
        data = {"key": key, "name": name, "shape": () if kind == "clear" else shape}
        event = Event(message_id=name, type=kind, data=data, correlation_id=name)
        sent = Sent(event, key, Body.model_validate(data).names())
        among = self.of_key(key).values() if kind == "clear" else [sent]
        things = [thing for one in among for stage in one.names for thing in stage]
        for at, verb, faults in troubles:
            if things:
                self.world.faults[verb, things[at % len(things)]] += faults
        self.store_event(sent.event)
        if kind == "clear":
            for other in self.of_key(key):
                if not other.startswith("clear"):
                    self.note_cancelled(other)
        self.sent[name] = sent

    @precondition(lambda self: self.sent and not any(sent.copies for sent in self.sent.values()))
    @move(pick=PICK)
    def send_a_copy(self, pick: int) -> None:
        sent = choose(list(self.sent.values()), pick)
        sent.copies += self.store_event(sent.event) == "answered"

    @precondition(lambda self: self.in_state("running", "queued"))
    @move(pick=PICK)
    def cancel(self, pick: int) -> None:
        name = choose(self.in_state("running", "queued"), pick)
        with suppress(Refused):
            self.cluster.ask(self.people.cancel(name))
            self.note_cancelled(name)

    @precondition(lambda self: self.in_state("stuck"))
    @move(pick=PICK, gives_up=st.booleans())
    def clean_up(self, pick: int, gives_up: bool) -> None:
        name = choose(self.in_state("stuck"), pick)
        if gives_up:
            self.cluster.ask(self.people.abandon(name))
            self.world.give_up(name)
        else:
            with suppress(Refused):
                self.cluster.ask(self.people.retry(name))

    # What happens to daemons, and how far they get meanwhile.

    @precondition(lambda self: self.cluster.awake)
    @rule(pick=PICK, turns=st.integers(1, 40))
    def turn(self, pick: int, turns: int) -> None:
        life = choose(self.cluster.awake, pick)
        with self.nothing_of_others_changes(life):
            life.turn(turns)

    @rule(seconds=st.sampled_from((0.5, 2.0, 7.0)))
    def elapse(self, seconds: float) -> None:
        self.cluster.elapse(seconds)

    @precondition(lambda self: self.cluster.awake)
    @move(pick=PICK, harm=st.sampled_from(HARMS))
    def harm(self, pick: int, harm: Any) -> None:
        life = self.victim(pick)
        if harm == "kill":
            life.kill()
        elif harm == "stop":
            life.engine.stop()
        elif harm == "freeze":
            life.frozen = True
        else:
            life.link.broken = harm

    @precondition(lambda self: self.cluster.awake)
    @move(pick=PICK, answered=st.booleans(), thaws=st.booleans())
    def fall_silent(self, pick: int, answered: bool, thaws: bool) -> None:
        """Freeze a daemon until others can have its work; meanwhile hosts answer it, or don't."""
        life = self.victim(pick)
        life.frozen = True
        self.cluster.elapse(LEASE + 2 * SIGN)
        for call in [call for call in self.world.hanging if call.by is life and answered]:
            self.world.answer(call, Fault.FINE)
        if thaws:
            life.recover()

    @precondition(lambda self: len(self.cluster.sound) < MOST_LIVES)
    @move(pick=PICK)
    def recover(self, pick: int) -> None:
        """Start another daemon, or end what another one suffers from."""
        ill = [life for life in self.cluster.living if life not in self.cluster.sound]
        if len(self.cluster.living) < MOST_LIVES:
            self.cluster.start()
        else:
            choose(ill, pick).recover()

    # What happens on hosts.

    @precondition(lambda self: self.world.hanging)
    @move(pick=PICK, fault=ANSWERS)
    def answer(self, pick: int, fault: Fault) -> None:
        self.world.answer(choose(self.world.hanging, pick), fault)

    @precondition(lambda self: self.world.orphans)
    @move(pick=PICK, lands=st.booleans())
    def end_late(self, pick: int, lands: bool) -> None:
        self.world.end(choose(self.world.orphans, pick), lands=lands)

    # What is promised.

    @invariant()
    def every_promise_is_kept(self) -> None:
        self.nobody_does_what_he_may_not()
        self.requests_of_a_key_go_in_order()
        self.every_request_ends_once()
        self.all_or_nothing_is_there()

    def nobody_does_what_he_may_not(self) -> None:
        self.world.check()
        assert self.world.violations == []
        assert [trouble for life in self.cluster.lives for trouble in life.troubles] == []
        defects = [entry for entry in self.logs if entry["event"] in DEFECTS]
        assert defects == []

    def requests_of_a_key_go_in_order(self) -> None:
        for key in "ab":
            rows = self.rows("key = ?", f"shelf:{key}")
            states = [row["state"] for row in rows if row["state"] in OPEN]
            assert all(state == "queued" for state in states[1:]), states
            self.check_story(key, [row["request_id"] for row in rows])

    def check_story(self, key: str, names: list[str]) -> None:
        """Check that workflows were decided in the stored order, and each ended before the next."""
        last, under_way = -1, None
        ended: set[str] = set()
        for told in self.store.look("SELECT * FROM story WHERE key = ? ORDER BY id", key):
            name, what = told["workflow"], told["what"]
            assert name not in ended, f"{name} is {what} after its end"
            if what in ("settled", "forgot"):
                ended.add(name)
            if what == "decided" or (name != under_way and name not in ended):
                assert under_way is None or under_way in ended or self.is_uncompensated(under_way)
            if names.index(name) > last:
                last = names.index(name)
                under_way = name
            else:
                assert what == "forgot" or name == under_way, f"{name} is {what} too late"
            if what == "refused":
                ended.add(name)

    def is_uncompensated(self, name: str) -> bool:
        terminal = self.row(name)["terminal"]
        return terminal is not None and json.loads(terminal).get("compensated") is False

    def every_request_ends_once(self) -> None:
        said = self.store.look(
            "SELECT message_id, body FROM outbox"
            " WHERE type LIKE '%.succeeded' OR type LIKE '%.failed'"
        )
        bodies = [(one["message_id"], json.loads(one["body"])) for one in said]
        for row in self.rows():
            sent = self.sent[row["request_id"]]
            mine = [one for one in bodies if one[1]["request_id"] == row["request_id"]]
            if row["terminal"] is None:
                assert mine == []
                continue
            terminal = json.loads(row["terminal"])
            assert mine == [(row["terminal_message_id"], terminal)] * (1 + sent.copies)
            assert sent.terminal in (None, row["terminal"]), "an end has changed"
            sent.terminal = row["terminal"]
            self.check_end(row, terminal, sent)

    def check_end(self, row: Any, terminal: dict[str, Any], sent: Sent) -> None:
        name, state = row["request_id"], row["state"]
        if terminal["outcome"] == "succeeded":
            assert state == "succeeded"
            assert not sent.must_fail, f"{name} was cancelled in time"
            values = [value for value in terminal["result"]["values"] if value is not None]
            assert values == [{"made": thing} for stage in sent.names for thing in stage]
        else:
            assert state == "failed" or not terminal["compensated"]
        if sent.is_cancelled and HEARS_WHILE_WAITING:
            assert terminal["error"]["code"] == "cancelled"
            assert name not in self.world.begun

    def all_or_nothing_is_there(self) -> None:
        shelves = {row["key"]: row for row in self.store.look("SELECT * FROM shelf")}
        for key in "ab":
            if not self.in_state(*OPEN, key=key):
                self.check_shelf(key, shelves.get(key))

    def check_shelf(self, key: str, row: Any) -> None:
        """Compare a shelf that nobody works on with what is claimed for it."""
        names = tuple(f"{name}/" for name in self.of_key(key))
        things = {thing for thing in self.world.things if thing.startswith(names)}
        surely = things - self.world.strays - self.world.left
        stuck = self.in_state("stuck", key=key)
        if row is None:
            assert surely == set(), "something is there that nobody claims"
            assert stuck == [], "what is stuck has lost its claims"
            return
        stages, more = flat(row["stages"]), flat(row["more"])
        assert surely <= stages | more, "something is there that nobody claims"
        for name in stuck:
            assert flat(json.dumps(self.sent[name].names)) <= stages | more
        if row["state"] == "full":
            assert stages <= things, "something is missing"
            assert stuck == []
        elif row["state"] == "making":
            assert stuck == [row["holder"]]
        elif row["state"] == "swapping" and stuck == []:
            assert self.is_uncompensated(row["holder"])
            assert more <= things, "something is missing"
        elif row["state"] == "clearing":
            assert self.is_uncompensated(row["holder"])

    # The end: nothing fails any more, and everything has to end.

    def teardown(self) -> None:
        try:
            if self.sent:
                self.drain()
        finally:
            self.cluster.close()

    def drain(self) -> None:
        self.heal()
        self.until_ended()
        self.every_promise_is_kept()
        for name in self.in_state("stuck"):
            self.cluster.ask(self.people.retry(name))
            self.until_ended()
            self.every_promise_is_kept()
            assert self.row(name)["state"] == "failed"
        for row in self.store.look("SELECT key FROM shelf"):
            self.send(kind="clear", key=row["key"], shape=(), troubles=[])
        self.until_ended()
        self.every_promise_is_kept()
        assert self.store.look("SELECT * FROM shelf") == []
        assert self.in_state("stuck") == []
        assert self.world.things <= self.world.strays | self.world.left

    def heal(self) -> None:
        self.world.faults.clear()
        for life in self.cluster.living:
            life.recover()

    def until_ended(self) -> None:
        for _ in range(PATIENCE):
            for call in self.world.hanging:
                self.world.answer(call, Fault.FINE)
            for call in self.world.orphans:
                self.world.end(call, lands=True)
            self.cluster.elapse(1.0)
            if not self.cluster.living:
                self.cluster.start()
            elif not self.in_state(*OPEN):
                return
        raise AssertionError(f"these never end: {self.in_state(*OPEN)}")

    # How it looks and moves.

    @contextmanager
    def nothing_of_others_changes(self, life: Life) -> Iterator[None]:
        """Let *life* do something; it may touch nothing that another living one works on."""
        mine = life.lease.id
        before = self.worked_on_beside(mine)
        yield
        after = self.worked_on_beside(mine)
        living = [row["id"] for row in self.store.look("SELECT id FROM daemon")]
        for seq, row in before.items():
            if row["owner"] in living:
                assert after.get(seq) == row, f"{life.name} touched what is {row['owner']}'s"

    def victim(self, pick: int) -> Life:
        """Choose one who is awake, and rather one who waits for a host."""
        busy = [life for life in self.cluster.awake if any(c.by is life for c in self.world.calls)]
        victim: Life = choose(busy or self.cluster.awake, pick)
        return victim

    def worked_on_beside(self, owner: str) -> dict[int, dict[str, Any]]:
        rows = self.rows("owner IS NOT NULL AND owner <> ?", owner)
        return {row["seq"]: dict(row) for row in rows}

    def store_event(self, event: Event) -> str:
        database = self.cluster.link
        stored = self.cluster.ask(database.run(lambda tx: self.intake.store(event, tx)))
        return stored.fate

    def note_cancelled(self, name: str) -> None:
        """Note what follows from a cancellation that was accepted just now."""
        row, sent = self.row(name), self.sent[name]
        if row["state"] == "queued":
            sent.is_cancelled = True
        if row["state"] == "running":
            # The next stage may be recorded already, and its record read before this.
            unheard = len(sent.names) - len(self.world.begun[name] & set(range(len(sent.names))))
            sent.must_fail = sent.must_fail or unheard >= 2

    def of_key(self, key: str) -> dict[str, Sent]:
        return {name: sent for name, sent in self.sent.items() if sent.key == key}

    def rows(self, condition: str = "TRUE", *values: Any) -> list[Any]:
        return self.store.requests(condition, *values)

    def row(self, name: str) -> Any:
        return self.rows("request_id = ?", name)[0]

    def in_state(self, *states: str, key: str | None = None) -> list[str]:
        return [
            row["request_id"]
            for row in self.rows()
            if row["state"] in states and key in (None, row["key"].removeprefix("shelf:"))
        ]


DEFECTS = {"workflow is defective", "a round is defective"}


def choose(among: Sequence[T], pick: int) -> Any:
    """Choose one, if there is any."""
    return among[pick % len(among)] if among else None


def flat(stages: str | None) -> set[str]:
    """Read the names of things from their stored form."""
    return {thing for stage in json.loads(stages or "null") or [] for thing in stage}


@pytest.fixture
def store(empty_database: Path) -> Iterator[Store]:
    store = Store(empty_database, OWN)
    yield store
    store.close()


def test_any_history_ends_as_all_done_or_nothing_done(store: Store) -> None:
    with capture_logs() as logs:
        play: Any = run_state_machine_as_test  # takes a function as well as a class
        play(
            lambda: Machine(store, logs),
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            ),
        )
