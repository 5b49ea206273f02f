"""Options that several commands share."""

from collections.abc import Callable
from typing import Annotated, TypeVar

import typer

T = TypeVar("T")

Wait = Annotated[
    bool, typer.Option("--wait/--no-wait", help="Follow the request to its end, or print its id.")
]
IpCount = Annotated[
    int | None, typer.Option(help="Addresses of the subnet: 64 (the default), 32, 16 or 8.")
]
Island = Annotated[str | None, typer.Option(help="The site; where there is only one, leave out.")]
SliceFilter = Annotated[str | None, typer.Option("--slice", help="Only of this slice.")]
StateFilter = Annotated[str | None, typer.Option("--state", help="Only in this state.")]


def parsed(read: Callable[[T], object]) -> Callable[[T], T]:
    """Make an option's callback that checks it with *read*, whose `ValueError` is a usage error."""

    def check(value: T) -> T:
        for one in value if isinstance(value, list | tuple) else [value]:
            if one is not None:
                try:
                    read(one)
                except ValueError as exc:
                    raise typer.BadParameter(str(exc)) from exc
        return value

    return check
