"""`ccfd check` says of each thing whether it is well and what to do, and tells no secret."""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import text

from ccfd.cli import check, probes
from ccfd.cli.guard_probe import guard
from ccfd.cli.probes import Probe, Warned
from ccfd.errors import Refused, Transient
from ccfd.settings import Database, Host, Network, NetworkNode, Settings, Tls
from ccfd.store import database
from ccfd.vt import api
from ccfd.vt.hypervisors import Hypervisors
from ccfd.vt.image_source import NoImages
from tests.unit.network.fakes import FakeServer


def says(answer: str | Exception) -> Callable[[], Awaitable[str]]:
    async def ask() -> str:
        if isinstance(answer, Exception):
            raise answer
        return answer

    return ask


async def hangs() -> str:
    await asyncio.sleep(3600)
    raise AssertionError


async def test_every_question_gets_its_line_whatever_becomes_of_the_others() -> None:
    found = await check.ask_all(
        [
            Probe("one", says("well")),
            Probe("two", says(Warned("slow; do this"))),
            Probe("three", says(Refused("invalid_state", "not\nthere; see (ccfd check)"))),
            Probe("four", says(Transient("host_unreachable", "away"))),
            Probe("five", hangs),
            Probe("sixth", says(ZeroDivisionError("oh"))),
        ],
        within=0.1,
    )
    assert check.table(found) == [
        "ok    one    well",
        "warn  two    slow; do this",
        "FAIL  three  not there; see",
        "FAIL  four   away",
        "FAIL  five   no answer in 0.1 s: it hangs, or a firewall drops what is sent there",
        "FAIL  sixth  ZeroDivisionError('oh'); this is a defect of ccfd",
    ]


def run(path: Path, text: str) -> subprocess.CompletedProcess[str]:
    path.write_text(text)
    argv = [sys.executable, "-m", "ccfd", "check", "--config", str(path)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def test_what_fails_ends_it_with_1_and_no_password_is_printed(tmp_path: Path) -> None:
    done = run(
        tmp_path / "ccfd.toml",
        f"""
        [broker]
        url = "amqp://u:hidden@127.0.0.1:1/"
        [database]
        url = "sqlite+aiosqlite:///{tmp_path}/new/ccfd.db"
        [network_node]
        ovsdb = "unix:{tmp_path}/none.sock"
        [images]
        directory = "{tmp_path}"
        """,
    )
    assert (done.returncode, done.stderr) == (1, "")
    lines = {line[6:].split("  ")[0]: line for line in done.stdout.splitlines()}
    assert lines["configuration"].startswith("ok")
    assert "FAIL  broker" in lines["broker"]
    assert "see that RabbitMQ runs there" in lines["broker"]
    assert f"SQLite, to be made at {tmp_path}/new/ccfd.db" in lines["database"]
    assert not (tmp_path / "new").exists()
    assert "FAIL  node: switch" in lines["node: switch"]
    assert "start Open vSwitch there" in lines["node: switch"]
    assert "no image that can be used" in lines["images"]
    assert "no [[host]]" in lines["settings"]
    assert "hidden" not in done.stdout


def test_wrong_settings_are_a_finding_too(tmp_path: Path) -> None:
    done = run(tmp_path / "ccfd.toml", "[slices]\nipcount = 9\n")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("FAIL  configuration  ")
    assert "slices.ipcount" in done.stdout


def sqlite(path: Path) -> Settings:
    return Settings(database=Database(url=f"sqlite+aiosqlite:///{path}"))


async def test_a_database_is_compared_with_this_release(
    empty_database: Path, tmp_path: Path
) -> None:
    assert await probes.database(sqlite(empty_database)) == "SQLite, with this release's tables"
    path = tmp_path / "ccfd.db"
    path.touch()
    assert "makes its tables at its first start" in await probes.database(sqlite(path))
    path.write_bytes(empty_database.read_bytes())
    later = database.Database(sqlite(path).database)
    async with later.connection() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = 'later'"))
        await connection.commit()
    await later.close()
    with pytest.raises(Refused, match="made by a newer ccfd"):
        await probes.database(sqlite(path))


async def test_without_a_broker_there_is_nothing_to_ask() -> None:
    assert await probes.broker("") == "none: events come by HTTP only"


class Wire:
    """A libvirt connection that knows its version and its capabilities."""

    def __init__(self, kinds: str) -> None:
        domains = "".join(f"<domain type='{kind}'/>" for kind in kinds.split())
        self._capabilities = (
            f"<capabilities><guest><arch name='x86_64'>{domains}</arch></guest></capabilities>"
        )

    def isAlive(self) -> int:  # noqa: N802 - libvirt's name
        return 1

    def getLibVersion(self) -> int:  # noqa: N802 - libvirt's name
        return 9_000_012

    def getCapabilities(self) -> str:  # noqa: N802 - libvirt's name
        return self._capabilities

    def close(self) -> int:
        return 0


HOST = Host(name="h1", tunnel_ip="192.0.2.1")


def hypervisors(kinds: str) -> Hypervisors:
    wire = cast("api.Connection", Wire(kinds))
    return Hypervisors(Settings(host=(HOST,)), NoImages(), connect=lambda _uri: wire)


async def test_a_host_tells_its_version_and_whether_it_has_kvm() -> None:
    slow, fast = hypervisors("qemu"), hypervisors("qemu kvm")
    assert await probes.libvirt(fast, HOST) == "9.0.12 at qemu:///system"
    for wanted in ("auto", "kvm"):
        assert await probes.kvm(fast, HOST, wanted) == "offered"
    assert await probes.kvm(slow, HOST, "qemu") == "not wanted: [hypervisor] domain_type is qemu"
    with pytest.raises(Warned, match="emulated, which is slow; switch on virtualization"):
        await probes.kvm(slow, HOST, "auto")
    with pytest.raises(Refused, match="domain_type asks: switch on"):
        await probes.kvm(slow, HOST, "kvm")
    for one in (slow, fast):
        await one.close()


async def test_a_host_that_is_away_fails_once() -> None:
    def refuse(_uri: str) -> api.Connection:
        raise api.LibvirtError("no route")

    away = Hypervisors(Settings(host=(HOST,)), NoImages(), connect=refuse)
    with pytest.raises(Transient, match="h1 cannot be reached"):
        await probes.libvirt(away, HOST)
    with pytest.raises(Warned, match="libvirt does not answer"):
        await probes.kvm(away, HOST, "kvm")
    await away.close()


async def test_a_program_that_is_missing_or_fails_is_told_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert await probes.run_program("true") == "`true` works"
    with pytest.raises(Refused, match="the rights of its unit"):
        await probes.run_program("false")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Refused, match="dnsmasq is not there: install the package dnsmasq-base"):
        await probes.program("dnsmasq")


async def test_a_switch_elsewhere_is_told_with_tls() -> None:
    with pytest.raises(Refused, match=r"set-manager\), see \[tls\]"):
        await probes.switch("ssl:127.0.0.1:1", Tls())


async def test_a_guard_that_nobody_could_reach_is_told_with_what_to_do(tmp_path: Path) -> None:
    keys: list[list[str]] = []

    def answer(ops: list[dict[str, Any]]) -> list[Any]:
        return [
            {"rows": [{"ssl": ["set", keys]}] if op["columns"] == ["ssl"] else []} for op in ops
        ]

    async with FakeServer(tmp_path / "db", answer).running() as server:
        node = NetworkNode(ovsdb=server.address)
        assert await guard("node", node, Tls()) == (
            f"to be made with the first VM, at unix:{tmp_path}/ccf-guard.mgmt"
        )
        lost = node.model_copy(update={"openflow": "unix:/nowhere/at/all"})
        with pytest.raises(Refused, match="set openflow"):
            await guard("node", lost, Tls())
        remote = node.model_copy(update={"openflow": "ssl:192.0.2.1:6653"})
        with pytest.raises(Refused, match="set-ssl"):
            await guard("node", remote, Tls())
        keys.append(["uuid", "k"])
        assert "ssl:192.0.2.1:6653" in await guard("node", remote, Tls())


async def test_what_the_settings_lack_is_named() -> None:
    network = (Network(cidr="10.0.0.0/8", type=1),)
    with pytest.raises(Warned, match=r"^no \[slices\] ssh_key_secret_file") as warned:
        await probes.whole(Settings(host=(HOST,), network=network))
    assert "type 1" not in str(warned.value)


@pytest.mark.parametrize("shared", [True, False])
async def test_the_nodes_guard_is_asked_where_a_hosts_vms_are_on_its_switch(
    *, shared: bool
) -> None:
    node = NetworkNode(tunnel_ip=HOST.tunnel_ip if shared else "192.0.2.100")
    async with probes.opened(Settings(host=(HOST,), network_node=node)) as asked:
        guards = [probe.what for probe in asked if probe.what.endswith("guard")]
    assert guards == ["node: guard" if shared else f"{HOST.name}: guard"]
