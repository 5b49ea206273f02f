"""What a workflow will do: stages of steps, computed from a plan and stored with it.

The stored form is a key that lives as long as the database: a newer daemon carries out the list
it finds. So the names of effects and the fields of their arguments are never renamed.
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from itertools import accumulate, chain
from typing import Any, Generic, NamedTuple, TypeVar

from pydantic import TypeAdapter

A = TypeVar("A")
Value = dict[str, Any] | None


_ADAPTERS: dict[Any, TypeAdapter[Any]] = {}


def adapter(kind: Any) -> TypeAdapter[Any]:
    """Return the reader of the type *kind*'s stored form; making one is slow: once for each."""
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


class Step(NamedTuple):
    """One physical effect to have: the effect's name and its argument, as JSON."""

    name: str
    args: dict[str, Any]


Stage = tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Steps:
    """Stages in order; the steps of one stage run side by side.

    From stage number `pivot` on, a workflow only goes forward: what follows has no undo. `flat`
    is every step in stored order, `offsets` the index in it of each stage's first step.
    """

    stages: tuple[Stage, ...]
    pivot: int
    flat: tuple[Step, ...] = field(init=False, compare=False)
    offsets: tuple[int, ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        """Count once: the runner asks at every step."""
        sizes = [len(stage) for stage in self.stages]
        object.__setattr__(self, "flat", tuple(chain.from_iterable(self.stages)))
        object.__setattr__(self, "offsets", tuple(accumulate(sizes, initial=0)))

    def to_json(self) -> dict[str, Any]:
        """Return the stored form."""
        return {
            "stages": [
                [{"name": step.name, "args": step.args} for step in stage] for stage in self.stages
            ],
            "pivot": self.pivot,
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "Steps":
        """Read the stored form."""
        return cls(
            stages=tuple(
                tuple(Step(step["name"], step["args"]) for step in stage)
                for stage in stored["stages"]
            ),
            pivot=stored["pivot"],
        )


def each(name: str, values: Iterable[Any]) -> Stage:
    """Have the effect *name* once for each of *values* (frozen dataclasses), side by side."""
    return tuple(
        Step(name, adapter(type(value)).serializer.to_python(value, mode="json"))
        for value in values
    )


def in_order(*stages: Stage, then: Iterable[Stage] = ()) -> Steps:
    """Carry out *stages* one after another, undoing all when one fails; empty ones fall away.

    What comes *then*, once all of them are done, is never undone.
    """
    kept = tuple(stage for stage in stages if stage)
    return Steps((*kept, *(stage for stage in then if stage)), pivot=len(kept))


def only_forward(*stages: Stage) -> Steps:
    """Carry out *stages* one after another, never undoing: for what cannot be undone."""
    return Steps(tuple(stage for stage in stages if stage), pivot=0)


@dataclass(frozen=True, slots=True)
class Effect(Generic[A]):
    """Something that a step does to the world, with its undo on the same line.

    Both may be repeated at any time: "already there" (and equal) is success, and so is "already
    gone". `do` may return a small JSON object for the journal. Both raise `Transient` (try
    again) or `Refused` (don't). Without `undo` the effect is left for somebody else to clean up.
    """

    takes: type[A]
    do: Callable[[A], Awaitable[Value]] | Callable[[A], Awaitable[None]]
    undo: Callable[[A], Awaitable[None]] | None

    def read(self, args: dict[str, Any]) -> A:
        """Make the argument of its stored form."""
        made: A = adapter(self.takes).validator.validate_python(args)
        return made


Effects = dict[str, Effect[Any]]
