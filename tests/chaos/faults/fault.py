"""What can fail, and how it is made to fail and to work again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

from tests.ccfd_process import CcfdProcess
from tests.lab import Lab, libvirtd, postgres, rabbit, switch
from tests.lab.layout import NODE, SERVICES
from tests.lab.shell import wait_until

How = Literal["killed", "stopped", "frozen"]

CCFD = "ccfd"
STEPS = "ccfd_step_duration_seconds_count"
WITHIN = 120.0

# Whose order to stop: PostgreSQL's "fast" shutdown ends sessions, its SIGTERM waits for them.
ORDERLY = {"postgresql": signal.SIGINT, "rabbitmq": signal.SIGTERM}
# A daemon of the lab by the name of its process, where that is another.
PROCESSES = {"postgresql": "postgres", "rabbitmq": "beam.smp"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A daemon in a place is away for *seconds*: killed or stopped and started, or frozen.

    With the program `ccfd`, it is one of *daemons*, chosen at random.
    """

    what: str
    program: str
    place: str
    how: How
    seconds: float
    daemons: int = 1

    @property
    def title(self) -> str:
        """Say what fails, and how."""
        if self.program == "dnsmasq" and self.how == "killed":
            return f"{self.what}: killed, and nobody restarts it"
        back = {"killed": "started", "stopped": "started", "frozen": "continued"}[self.how]
        how = "stopped in good order" if self.how == "stopped" else self.how
        return f"{self.what}: {how}, {back} after {self.seconds:g} s"


@dataclass(frozen=True, slots=True)
class Site:
    """Where faults happen: a lab, and the ccfd that run in it."""

    lab: Lab
    daemons: Sequence[CcfdProcess]
    random: Random

    def strike(self, fault: Fault) -> str:
        """Let *fault* happen; return when it is over: all answers again. Says whom it hit."""
        if fault.program == CCFD:
            return self._strike_ccfd(fault)
        if fault.how == "frozen":
            self._freeze(fault)
        else:
            self._end(fault)
        return ""

    def _strike_ccfd(self, fault: Fault) -> str:
        chosen = self.random.randrange(len(self.daemons))
        victim, steps = self.daemons[chosen], [daemon.metric(STEPS) for daemon in self.daemons]
        if fault.how == "frozen":
            victim.send(signal.SIGSTOP)
            time.sleep(fault.seconds)
            victim.send(signal.SIGCONT)
            victim.wait_ready(WITHIN)
        else:
            victim.kill()
            time.sleep(fault.seconds)
            victim.start(WITHIN)
        return f"it had taken {steps[chosen]:g} of {sum(steps):g} steps"

    def _pids(self, fault: Fault) -> list[int]:
        return self.lab.pids(fault.place, PROCESSES.get(fault.program, fault.program))

    def _freeze(self, fault: Fault) -> None:
        # Oldest first: a parent that stands still has no more children.
        frozen = sorted(self._pids(fault))
        assert frozen, f"no {fault.program} to freeze"
        _tell(frozen, signal.SIGSTOP)
        try:
            time.sleep(fault.seconds)
        finally:
            _tell(frozen, signal.SIGCONT)
        self._wait(fault)

    def _end(self, fault: Fault) -> None:
        before = self._pids(fault)
        # An orderly end is the parent's business; SIGKILL takes all, as a crashed machine would.
        orderly = fault.how == "stopped"
        _tell(_eldest(before) if orderly else before, _signal(fault))
        wait_until(lambda: not set(self._pids(fault)) & set(before), f"the end of {fault.program}")
        if fault.program == "dnsmasq":
            return
        time.sleep(fault.seconds)
        self.lab.start(fault.place, fault.program)
        self._wait(fault)

    def _wait(self, fault: Fault) -> None:
        layout, place = self.lab.layout, fault.place
        answers: dict[str, Callable[[], bool]] = {
            "rabbitmq": lambda: rabbit.answers(layout),
            "postgresql": lambda: postgres.answers(layout),
            "libvirtd": lambda: libvirtd.answers(layout, place),
            "ovsdb-server": lambda: switch.answers(layout, place),
        }
        if fault.program in answers:
            wait_until(answers[fault.program], fault.program, WITHIN)


def _signal(fault: Fault) -> signal.Signals:
    return ORDERLY[fault.program] if fault.how == "stopped" else signal.SIGKILL


def _tell(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # one that ended with its parent
            os.kill(pid, number)


def _eldest(pids: Sequence[int]) -> list[int]:
    """Return those whose parents are not among *pids*."""
    return [pid for pid in pids if _parent(pid) not in pids]


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:  # gone meanwhile
        return 0


def _faults(
    what: str, program: str, place: str, *ways: tuple[How, float], daemons: int = 1
) -> list[Fault]:
    return [
        Fault(what=what, program=program, place=place, how=how, seconds=seconds, daemons=daemons)
        for how, seconds in ways
    ]


KILLED: tuple[How, float] = ("killed", 5)
# Longer than a step is tried again by default.
AWAY: tuple[How, float] = ("killed", 20)
# Longer than every wait for an answer, and than a lease.
MINUTE: tuple[How, float] = ("killed", 60)
STOPPED: tuple[How, float] = ("stopped", 10)
FROZEN: tuple[How, float] = ("frozen", 15)

FAULTS = (
    *_faults("RabbitMQ", "rabbitmq", SERVICES, KILLED, STOPPED, FROZEN),
    *_faults("PostgreSQL", "postgresql", SERVICES, KILLED, MINUTE, STOPPED, FROZEN),
    *_faults("ovs-vswitchd of a host", "ovs-vswitchd", "h1", KILLED, FROZEN),
    *_faults("ovs-vswitchd of the network node", "ovs-vswitchd", NODE, KILLED, FROZEN),
    *_faults("ovsdb-server of a host", "ovsdb-server", "h1", KILLED, FROZEN),
    *_faults("ovsdb-server of the network node", "ovsdb-server", NODE, KILLED, AWAY, FROZEN),
    *_faults("libvirtd of a host", "libvirtd", "h1", KILLED, AWAY, ("frozen", 20)),
    *_faults("dnsmasq of every slice", "dnsmasq", NODE, ("killed", 0), FROZEN),
    *_faults("the only ccfd", CCFD, NODE, KILLED, FROZEN),
    *_faults("one ccfd of two", CCFD, NODE, KILLED, FROZEN, daemons=2),
    *_faults("one ccfd of three", CCFD, NODE, KILLED, FROZEN, daemons=3),
)
"""Every fault of the table."""
