"""What a blocking function in a lane works with, and how it learns that nobody waits any more."""

from threading import Event

from ccfd.vt import api


class AbandonedError(Exception):
    """Nobody waits for this call any more: it stops before its next effect."""


class Session:
    """A host's connection for one call; it never leaves the call's thread."""

    def __init__(self, host: str, connection: api.Connection, abandoned: Event) -> None:
        self.host = host
        self.connection = connection
        self._abandoned = abandoned

    def check(self) -> None:
        """Come before each effect: raise `AbandonedError` once the caller's deadline is over."""
        if self._abandoned.is_set():
            raise AbandonedError
