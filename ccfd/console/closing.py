"""Why a console is closed, in a code for programs and words for people.

The codes 4400 to 4999 are ours (RFC 6455, 7.4.2), made after HTTP's of the same endings; the
reason is what the page shows. It has at most 123 bytes (RFC 6455, 5.5).
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Close:
    """A close code and its reason."""

    code: int
    reason: str


class Closed(Exception):
    """The console ends, and `close` says why."""

    def __init__(self, close: Close) -> None:
        super().__init__(close.reason)
        self.close = close


ENDED = Close(1000, "the viewer left")
GOING_AWAY = Close(1012, "ccfd is being restarted: open the console again")
UNKNOWN = Close(4401, "ticket unknown: ask for a new one")
EXPIRED = Close(4402, "ticket expired: ask for a new one")
USED = Close(4403, "ticket used already: ask for a new one")
DELETED = Close(4404, "the VM was deleted")
TOO_LATE = Close(4408, "the viewer did not answer in time")
NOT_RUNNING = Close(4409, "the VM is not running")
REVOKED = Close(4410, "the console was closed by an operator")
IDLE = Close(4411, "nothing happened for too long")
BAD_DATA = Close(4415, "the viewer sent what no viewer sends")
TOO_MANY = Close(4429, "too many viewers: close another console first")
BUSY = Close(4423, "the serial console is in use elsewhere")
GARBAGE = Close(4502, "the VM's screen does not speak as expected")
HUNG_UP = Close(4502, "the VM's screen hung up")
HOST_DOWN = Close(4503, "the VM's host does not answer")
UNRECORDED = Close(4507, "the session cannot be recorded, as it has to be")
RECORDING_FULL = Close(4507, "the session's recording is full: open the console again")
NO_DATABASE = Close(4503, "ccfd's database is away: try again in a moment")
