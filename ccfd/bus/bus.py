"""What does the rest of ccfd see of the broker?"""

from collections.abc import Callable
from random import Random
from typing import Any

from ccfd import settings
from ccfd.bus.connection import BrokerConnection
from ccfd.bus.inbox import Inbox, Stores
from ccfd.bus.publisher import NoBroker, Publisher
from ccfd.store.database import Database


class Bus:
    """The inbox and the publisher, on a connection that comes back by itself.

    *dead_letter* is told the reason of each letter that the inbox sends without the database.
    *leads* tells whether this daemon is the one to publish what is stored. *turned* is told of
    each attempt to connect and of each round of the publisher.
    With an empty URL nothing is consumed, and what is stored to be said counts as said.
    """

    def __init__(
        self,
        config: settings.Broker,
        database: Database,
        intake: Stores,
        dead_letter: Callable[[str], None],
        leads: Callable[[], bool],
        *,
        turned: Callable[[], None] = lambda: None,
    ) -> None:
        self._config = config
        self._database = database
        self._inbox = Inbox(database, intake, prefetch=config.prefetch, dead_letter=dead_letter)
        self._publisher = Publisher(database, leads, turned)
        self._connection = BrokerConnection(
            config.url,
            (self._inbox, self._publisher),
            random=Random(),  # noqa: S311 - jitter
            turned=turned,
        )

    @property
    def connected(self) -> bool:
        """Tell whether the broker is connected and everything is declared."""
        return self._connection.connected

    @property
    def consuming(self) -> bool:
        """Tell whether the broker knows of our consumer."""
        return self._inbox.consuming

    @property
    def problem(self) -> str:
        """Say why the broker is not connected; empty while it is."""
        return self._connection.problem

    async def run(self) -> None:
        """Consume and publish until cancelled."""
        if self._config.url:
            await self._connection.run()
        else:
            await NoBroker(self._database).run()

    def progress(
        self, body: dict[str, Any], correlation_id: str | None, traceparent: str | None = None
    ) -> None:
        """Publish a progress message if that is possible; never wait."""
        self._publisher.progress(body, correlation_id, traceparent)

    def stop_consuming(self) -> None:
        """Take no more requests; go on publishing."""
        self._inbox.stop()

    async def flush(self) -> None:
        """Wait a little until what is stored to be said is out."""
        await self._publisher.flush()
