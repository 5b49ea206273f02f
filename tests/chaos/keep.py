"""How the twins' world outlives the process that changes it: after each change, one file."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

from tests.twins import World

# What a world is told, rather than holds.
TOLD = ("trap", "halfway")


def save(world: World, path: Path) -> None:
    """Store *world*: a kill leaves the file as it was before, or as it is after."""
    held = {name: value for name, value in vars(world).items() if name not in TOLD}
    fresh = path.with_suffix(".new")
    fresh.write_bytes(pickle.dumps(held))
    os.replace(fresh, path)


def load(path: Path) -> World:
    """Read the stored world; a new one where none is stored."""
    if not path.exists():
        return World()
    held: dict[str, Any] = pickle.loads(path.read_bytes())
    return World(**held)
