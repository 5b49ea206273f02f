"""What can go wrong, in two words: `Refused` (do not try again) and `Transient` (try again).

Nothing else crosses the border of a driver or of a handler: every other exception is a defect
and ends its request with the code `internal`.
"""

from collections.abc import Mapping
from typing import Any, Literal

ErrorCode = Literal[
    "invalid_message",
    "unknown_type",
    "invalid_ipcount",
    "slice_exists",
    "slice_not_found",
    "subnet_exists",
    "subnet_not_found",
    "subnet_expired",
    "subnet_in_use",
    "network_exhausted",
    "address_exhausted",
    "vm_not_found",
    "vm_exists",
    "flavor_exists",
    "flavor_not_found",
    "image_not_found",
    "image_corrupt",
    "host_not_found",
    "request_not_found",
    "console_not_found",
    "console_in_use",
    "no_valid_host",
    "host_unreachable",
    "hypervisor_error",
    "switch_error",
    "invalid_state",
    "cancelled",
    "timeout",
    "internal",
]


class CcfdError(Exception):
    """An error with a code for programs and a sentence for people.

    `message` says what happened and, where there is something to do, what to do about it;
    `details` holds JSON values only.
    """

    retriable = False

    def __init__(
        self, code: ErrorCode, message: str, *, details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.code: ErrorCode = code
        self.message = message
        self.details: dict[str, Any] = dict(details or {})

    def document(self) -> dict[str, Any]:
        """Return the `error` object of results and HTTP answers."""
        return {
            "code": self.code,
            "message": self.message,
            "retriable": self.retriable,
            "details": self.details,
        }


class Refused(CcfdError):
    """The request is at fault, or trying again would end the same way: undo at once."""


class Transient(CcfdError):
    """It may work in a moment: the workflow tries again, after `retry_in` seconds if given."""

    retriable = True

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        details: Mapping[str, Any] | None = None,
        retry_in: float | None = None,
    ) -> None:
        super().__init__(code, message, details=details)
        self.retry_in = retry_in
