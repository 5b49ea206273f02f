"""How a guest is asked to shut down, and waited for: as if somebody pressed its power button."""

import asyncio

from ccfd.vt import api, faults, ours
from ccfd.vt.lane import Lane
from ccfd.vt.session import Session

AGAIN = 5.0
"""Seconds between two presses: a guest that is only starting does not hear the first."""
FIRST_LOOK, LONGEST_PAUSE = 0.25, 1.0
"""Seconds until the guest is looked at, and the most that is waited between two looks."""

_RUNNING, _BLOCKED, _SHUTTING_DOWN = 1, 2, 4  # virDomainState
_GONE_OR_IDLE = frozenset({api.NO_DOMAIN, api.OPERATION_INVALID})


async def by_guest(lane: Lane, vm: str, grace: float) -> None:
    """Return when the guest has ended, does not run (so cannot hear), or after *grace* seconds.

    The lane is free between two looks: many guests may take their time side by side.
    """
    loop = asyncio.get_running_loop()
    end, pressed, pause = loop.time() + grace, -AGAIN, FIRST_LOOK
    while (now := loop.time()) < end:
        press = now - pressed >= AGAIN
        if not await lane.effect(vm, lane.call_timeout, _is_up, vm, press=press):
            return
        if press:
            pressed = now
        await asyncio.sleep(min(pause, end - loop.time()))
        pause = min(pause * 1.5, LONGEST_PAUSE)


def _is_up(session: Session, vm: str, *, press: bool) -> bool:
    """Tell whether the guest runs; press its power button if asked to."""
    domain = ours.find(session, vm)
    state = None if domain is None else faults.absent(api.NO_DOMAIN, domain.state)
    if domain is None or state is None:
        return False
    ours.owner(session, domain)
    number = state[0]
    if press and number in (_RUNNING, _BLOCKED):
        session.check()
        faults.unless(_GONE_OR_IDLE, lambda: domain.shutdownFlags(api.SHUTDOWN_ACPI))
    return number in (_RUNNING, _BLOCKED, _SHUTTING_DOWN)
