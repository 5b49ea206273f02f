"""How flows are handed over: one command at a time, and whoever comes meanwhile shares the next."""

import asyncio
from collections.abc import Sequence

import pytest

from ccfd.errors import Refused, Transient
from ccfd.network import ofctl
from ccfd.network.commands import CommandError
from ccfd.network.endpoints import Tcp, Unix
from ccfd.network.ofctl import Ofctl
from ccfd.settings import Tls

GUARD = Unix("/run/openvswitch/ccf-guard.mgmt")


class Commands:
    """Commands that are not run, and end when they are let."""

    def __init__(self) -> None:
        self.ran: list[tuple[Sequence[str], list[str]]] = []
        self.go = asyncio.Event()
        self.go.set()
        self.fails = False

    async def run(self, argv: Sequence[str], *, text: str = "", within: float) -> str:
        self.ran.append((argv, text.split("\n")[:-1]))
        await self.go.wait()
        if self.fails:
            raise CommandError(argv, 1, "failed to connect to socket")
        return "printed"


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    commands = Commands()
    monkeypatch.setattr(ofctl, "run", commands.run)
    return commands


async def test_changes_that_come_while_one_is_under_way_go_together(commands: Commands) -> None:
    guard = Ofctl("h1", GUARD, Tls())
    commands.go.clear()
    async with asyncio.TaskGroup() as group:
        for number in range(4):
            group.create_task(guard.change([f"add {number}"]))
            await asyncio.sleep(0)
        commands.go.set()
    assert [lines for _, lines in commands.ran] == [["add 0"], ["add 1", "add 2", "add 3"]]
    assert commands.ran[0][0] == (
        *("ovs-ofctl", "-O", "OpenFlow13", "--bundle", "add-flows"),
        *("unix:/run/openvswitch/ccf-guard.mgmt", "-"),
    )


async def test_who_shares_a_command_shares_its_failure_and_the_next_one_is_tried(
    commands: Commands,
) -> None:
    guard = Ofctl("h1", GUARD, Tls())
    commands.fails = True

    async def fail(word: str) -> None:
        with pytest.raises(Transient, match="set openflow"):
            await guard.change([word])

    async with asyncio.TaskGroup() as group, guard.turn:
        for word in ("a", "b"):
            group.create_task(fail(word))
        await asyncio.sleep(0)
    assert len(commands.ran) == 1
    commands.fails = False
    await guard.change(["c"])


async def test_a_change_whose_sender_was_cancelled_is_no_success(commands: Commands) -> None:
    guard = Ofctl("h1", GUARD, Tls())
    commands.go.clear()

    async def fail() -> None:
        with pytest.raises(Transient, match="cancelled"):
            await guard.change(["b"])

    async with asyncio.TaskGroup() as group:
        async with guard.turn:
            first = group.create_task(guard.change(["a"]))
            await asyncio.sleep(0)
            group.create_task(fail())
            await asyncio.sleep(0)
        while not commands.ran:
            await asyncio.sleep(0)
        first.cancel()


async def test_a_guard_elsewhere_is_reached_with_our_keys(commands: Commands) -> None:
    remote = Tcp("192.0.2.1", 6653, tls=True)
    with pytest.raises(Refused, match=r"\[tls\] section"):
        await Ofctl("h1", remote, Tls()).change(["a"])
    await Ofctl("h1", remote, Tls(ca="ca", cert="cert", key="key")).change(["a"])
    assert commands.ran[0][0][3:7] == (
        *("--private-key=key", "--certificate=cert", "--ca-cert=ca", "--bundle"),
    )
    assert "ssl:192.0.2.1:6653" in commands.ran[0][0]


async def test_a_meter_that_is_there_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    async def run(argv: Sequence[str], *, text: str = "", within: float) -> str:
        ran.append(argv[3])
        if argv[3] == "add-meter":
            raise CommandError(argv, 1, "OFPT_ERROR (OF1.3) (xid=0x2): OFPMMFC_METER_EXISTS")
        return ""

    monkeypatch.setattr(ofctl, "run", run)
    await Ofctl("h1", GUARD, Tls()).set_meter("meter=2,kbps")
    assert ran == ["add-meter", "mod-meter"]


async def test_a_guard_that_takes_no_meter_is_a_passing_error(commands: Commands) -> None:
    commands.fails = True
    with pytest.raises(Transient, match="failed to connect"):
        await Ofctl("h1", GUARD, Tls()).set_meter("meter=2,kbps")
    assert len(commands.ran) == 1
