"""How a VM's row follows the state that its domain was seen in."""

from dataclasses import dataclass
from typing import Literal

from sqlalchemy import update

from ccfd.handlers import meanwhile
from ccfd.store import outbox
from ccfd.store.database import Transaction
from ccfd.store.tables import vm as vms
from ccfd.vt.domains import Found
from ccfd.workflow.results import SLICE_KEY

INTERRUPTED = frozenset({"unknown", "daemon", "failed"})
"""Why a domain is off that nobody turned off: its host or its libvirtd began anew, or a start
failed. One that was shut down, was destroyed or has crashed stays off: its VM's state says so."""

OBSERVED = frozenset({"running", "paused", "shutoff", "crashed"})
"""States of a VM that only follow what is seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vm:
    """A VM of the database that holds something on a host."""

    slice: str
    host: str
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """A VM that is in another state than the database says."""

    vm: str
    slice: str
    was: str
    now: str
    reason: str

    @property
    def began(self) -> bool:
        """Whether it was started: its link is a new one."""
        return self.was in ("shutoff", "crashed") and self.now in ("running", "paused")


def observed(vm: Vm, found: Found) -> Observed | None:
    """Say how *found* differs from *vm*; not where its run is to be put back: pure."""
    now = "crashed" if found.reason == "crashed" else found.state
    interrupted = vm.state == "running" and found.reason in INTERRUPTED
    if now == vm.state or interrupted or not {now, vm.state} <= OBSERVED:
        return None
    return Observed(
        vm=found.vm, slice=vm.slice, was=vm.state, now=now, reason=found.reason or "observed"
    )


async def follow(
    seen: Observed, since: int, transaction: Transaction
) -> Literal["told", "known", "busy"]:
    """Let a VM's state be what was *seen* after request number *since*, and tell so.

    Returns `busy`, and does nothing, where a request is or was at work on its slice. Of several
    daemons that have seen the same one tells, and the others find it `known`.
    """
    if not await meanwhile.is_untouched(f"{SLICE_KEY}{seen.slice}", since, transaction):
        return "busy"
    changed = await transaction.scalar(
        update(vms)
        .where(vms.c.id == seen.vm, vms.c.state == seen.was)
        .values(state=seen.now)
        .returning(vms.c.id)
    )
    if changed is None:
        return "known"
    await outbox.notice(
        transaction,
        "vm.state_changed",
        **{
            "slice": seen.slice,
            "vm": seen.vm,
            "from": seen.was,
            "to": seen.now,
            "reason": seen.reason,
        },
    )
    return "told"
