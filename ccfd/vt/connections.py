"""How many connections a host gets, and who may use one.

One thread at a time. libvirt allows several, but when a keepalive's timeout cuts a connection that
two threads are calling through, its client (9.0) uses memory that it has freed, and the daemon
crashes. Closing a connection under a call does the same. So each call has a connection to itself,
and whoever uses one gives it back or closes it. libvirtd also takes only five calls at once from
one client (max_client_requests).
"""

import threading
from collections.abc import Callable

from ccfd.vt import api


class Connections:
    """The connections to one host; every method may be called from any thread."""

    def __init__(self, connect: Callable[[], api.Connection]) -> None:
        self._connect = connect
        self._idle: list[api.Connection] = []
        self._lock = threading.Lock()
        self._closed = False

    def idle(self) -> api.Connection | None:
        """Take a connection that is open and unused, if there is one; it asks nobody."""
        with self._lock:
            while self._idle:
                connection = self._idle.pop()
                if _is_alive(connection):
                    return connection
                _drop(connection)
        return None

    def open(self) -> api.Connection:
        """Open one more; block without limit while libvirtd is frozen."""
        return self._connect()

    def give_back(self, connection: api.Connection) -> None:
        """End the use of *connection*: keep it for the next, or close it; blocks."""
        with self._lock:
            keep = not self._closed and _is_alive(connection)
            if keep:
                self._idle.append(connection)
        if not keep:
            api.disconnect(connection)

    def close(self) -> None:
        """Close what is unused, and from now on whatever is given back; blocks."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            api.disconnect(connection)


def _is_alive(connection: api.Connection) -> bool:
    try:
        return bool(connection.isAlive())
    except api.LibvirtError:
        return False


def _drop(connection: api.Connection) -> None:
    """Close a connection whose socket is closed, in a thread all the same."""
    threading.Thread(target=api.disconnect, args=(connection,), daemon=True).start()
