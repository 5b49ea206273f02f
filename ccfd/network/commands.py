"""Runs a system command: an argument list, a deadline, and what it said when it failed."""

import asyncio
from collections.abc import Sequence

from ccfd.calls import noted
from ccfd.errors import CcfdError, Refused, Transient

Argv = tuple[str, ...]


class CommandError(Exception):
    """A command ended with another exit status than 0; `said` is what it wrote."""

    def __init__(self, argv: Sequence[str], status: int, said: str) -> None:
        super().__init__(f"`{' '.join(argv)}` ended with status {status}: {said}")
        self.argv = tuple(argv)
        self.status = status
        self.said = said

    def translate(self) -> CcfdError:
        """Return what the workflow shall hear: the machine may be in between two states."""
        return Transient("switch_error", str(self))


async def run(argv: Sequence[str], *, text: str = "", within: float = 20) -> str:
    """Run *argv* in a session of its own with *text* as its input; return what it printed.

    Raises `CommandError`, `Refused` (`switch_error`) where the program is not installed, and
    `Transient` (`timeout`) after *within* seconds; the command is killed then, as it is when the
    caller is cancelled.
    """
    with noted("command", "node", " ".join(argv)):
        return await _run(argv, text, within)


async def _run(argv: Sequence[str], text: str, within: float) -> str:
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except FileNotFoundError as exc:
        raise Refused(
            "switch_error", f"{argv[0]} is not installed on the network node: install it"
        ) from exc
    try:
        async with asyncio.timeout(within):
            out, err = await process.communicate(text.encode())
    except TimeoutError as exc:
        raise Transient("timeout", f"`{' '.join(argv)}` did not end in {within:g} s") from exc
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        said = (err or out).decode(errors="replace").strip()
        raise CommandError(argv, process.returncode, said)
    return out.decode(errors="replace")
