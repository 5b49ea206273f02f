"""Running a command to its end, or not."""

import pytest

from ccfd.errors import Refused, Transient
from ccfd.network.commands import CommandError, run


async def test_a_command_gets_its_text_and_gives_its_output() -> None:
    assert await run(["cat"], text="ä\n") == "ä\n"


async def test_a_failed_command_says_what_it_said() -> None:
    with pytest.raises(CommandError, match="status 1") as caught:
        await run(["false"])
    assert isinstance(caught.value.translate(), Transient)


async def test_a_command_that_hangs_is_killed_at_its_deadline() -> None:
    with pytest.raises(Transient, match="did not end"):
        await run(["sleep", "60"], within=0.05)


async def test_a_program_that_is_missing_is_named() -> None:
    with pytest.raises(Refused, match="no-such-program-of-ccfd is not installed"):
        await run(["no-such-program-of-ccfd"])
