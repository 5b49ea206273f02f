"""What the engine asks of the code that knows an event: to decide, to list steps, to settle."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel

from ccfd.errors import CcfdError
from ccfd.store.database import Transaction
from ccfd.workflow.steps import Steps, adapter

B = TypeVar("B", bound=BaseModel)
P = TypeVar("P")


@dataclass(frozen=True, slots=True)
class Done:
    """The request is carried out already, by its decision alone."""

    result: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Child:
    """A request that another one has stored, in the queue of its own key, and awaits.

    The parent's plan holds its id, so that it is the same however often the plan is decided.
    """

    request_id: str
    type: str
    body: dict[str, Any]


class Handler(ABC, Generic[B, P]):
    """One event's story. `decide` and `settle` each run in one transaction of their own.

    They may run more than once, when a transaction lost a race: whatever they do, they do through
    the transaction.
    """

    event: ClassVar[str]
    body: ClassVar[type[BaseModel]]
    plan: ClassVar[type[Any]]
    cancels: ClassVar[frozenset[str]] = frozenset()
    """Types of requests with the same key that this one cancels."""
    content_with: ClassVar[frozenset[str]] = frozenset()
    """Codes of errors by which a child may fail and yet have done what it is for."""

    @abstractmethod
    async def key(self, body: B, transaction: Transaction) -> str:
        """Return what the request is about: one workflow runs for a key at a time."""

    @abstractmethod
    async def decide(self, body: B, transaction: Transaction) -> P | Done:
        """Choose, and claim what is chosen; or raise `Refused`, and nothing is claimed."""

    def children(self, plan: P) -> Sequence[Child]:
        """List the requests to be carried out before the first step, under other keys. Pure.

        When one of them fails, the request fails with its error, without a step.
        """
        del plan
        return ()

    def steps(self, plan: P) -> Steps:
        """List what will happen, in order. Pure."""
        raise NotImplementedError(f"{self.event} has no steps: it decides by `Done`")

    async def settle(
        self, plan: P, values: Sequence[dict[str, Any] | None], transaction: Transaction
    ) -> dict[str, Any]:
        """Store the new state after every step is done; return the result."""
        raise NotImplementedError(f"{self.event} has no steps: it decides by `Done`")

    async def forget(
        self, plan: P, error: dict[str, Any], transaction: Transaction
    ) -> dict[str, Any]:
        """Give back what `decide` claimed, after every step is undone; return error details."""
        raise NotImplementedError(f"{self.event} has no undo")

    async def refuse(self, body: B, error: CcfdError, transaction: Transaction) -> dict[str, Any]:
        """Store what a refused request leaves behind; return details for the error."""
        del body, error, transaction
        return {}

    def write_plan(self, plan: P) -> dict[str, Any]:
        """Return the stored form of *plan*."""
        stored: dict[str, Any] = adapter(self.plan).dump_python(plan, mode="json")
        return stored

    def read_plan(self, stored: dict[str, Any]) -> P:
        """Read the stored form of a plan."""
        plan: P = adapter(self.plan).validate_python(stored)
        return plan


Handlers = dict[str, Handler[Any, Any]]
