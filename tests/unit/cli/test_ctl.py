"""What ccfctl promises to people and programs."""

import asyncio
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from ccfd.cli import events
from tests.unit.cli.conftest import Ctl
from tests.unit.cli.twin import LEASE, NO_HOST, SLICE, SSH_KEY, VM, Twin, error

AMPLE = 60.0
"""Seconds that a program takes to start, or to end, on the busiest of machines."""
ID = r"request ([0-9a-f-]{36})\n"


async def test_creating_a_slice_shows_each_step_as_a_plain_line_and_then_the_slice(
    ctl_: Ctl, twin: Twin, socket: str
) -> None:
    done = await ctl_("--socket", socket, "slice", "create", "demo", "--no-gateway")
    assert (done.status, done.err) == (0, "")
    assert "1/2 make-bridge started\n" in done.out
    assert "2/2 boot done\n" in done.out
    assert re.search(r"NAME +STATE +IP +MAC +HOST", done.out)
    assert re.search(r"web +running +10.0.0.2 +02:01:0a:00:00:02 +h1", done.out)
    assert "\x1b" not in done.out


async def test_the_request_id_is_printed_and_is_the_one_that_was_sent(
    ctl_: Ctl, twin: Twin, socket: str
) -> None:
    done = await ctl_("--socket", socket, "slice", "create", "demo")
    printed = re.match(ID, done.out)
    assert printed is not None
    assert str(UUID(printed[1])) == twin.posted[0]["id"]


async def test_it_listens_to_the_slice_before_it_sends(ctl_: Ctl, twin: Twin, socket: str) -> None:
    seen: list[int] = []
    twin.on_post = lambda: seen.append(len(twin.subscribed))
    await ctl_("--socket", socket, "subnet", "create", "demo")
    assert seen == [1]
    assert twin.subscribed == [("demo", None)]


async def test_only_what_was_given_is_sent(ctl_: Ctl, twin: Twin, socket: str) -> None:
    await ctl_("--socket", socket, "subnet", "create", "demo", "--ipcount", "8")
    assert twin.posted[0]["type"] == "subnet.create"
    assert twin.posted[0]["data"] == {"owner": "demo", "ipcount": 8}


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        (("--controller", "198.51.100.9"), {"controller": {"address": "198.51.100.9"}}),
        (
            ("--controller", "198.51.100.9:6653"),
            {"controller": {"address": "198.51.100.9", "port": 6653}},
        ),
        (
            ("--controller", "[2001:db8::9]:6653"),
            {"controller": {"address": "2001:db8::9", "port": 6653}},
        ),
        (("--controller", "floodlight"), {"controller": {"image": "floodlight"}}),
        (("--no-controller",), {"controller": None}),
        (
            ("--description", "new", "--expires-in", "2h"),
            {"description": "new", "expires_in": 7200},
        ),
    ],
)
async def test_a_slice_is_changed_in_what_was_given_only(
    ctl_: Ctl, twin: Twin, socket: str, said: tuple[str, ...], sent: dict[str, Any]
) -> None:
    await ctl_("--socket", socket, "slice", "update", "demo", *said)
    assert twin.posted[0]["type"] == "slice.update"
    assert twin.posted[0]["data"] == {"slice": "demo", **sent}


async def test_a_controller_is_made_and_deleted(ctl_: Ctl, twin: Twin, socket: str) -> None:
    await ctl_("--socket", socket, "controller", "create", "demo", "floodlight")
    await ctl_("--socket", socket, "controller", "delete", "some-id")
    assert [(one["type"], one["data"]) for one in twin.posted] == [
        ("controller.create", {"slice": "demo", "image_name": "floodlight"}),
        ("controller.delete", {"vm": "some-id"}),
    ]


async def test_a_slice_is_sent_with_its_vms_and_keys(
    ctl_: Ctl, twin: Twin, socket: str, tmp_path: Path
) -> None:
    key = tmp_path / "id.pub"
    key.write_text("# mine\nssh-ed25519 AAAA me\n")
    await ctl_(
        *("--socket", socket, "slice", "create", "demo", "--no-dhcp", "--no-gateway"),
        *("--vm", "name=web,image=tiny,flavor=tiny,different-host=db+cache,dhcp=no"),
        *("--vm", "image=tiny,cpu=2,ram=512,disk=4,host=h1"),
        *("--ssh-key", str(key), "--expires-in", "12h", "--user", "ada"),
    )
    assert twin.posted[0]["data"] == {
        "slice": "demo",
        "user": "ada",
        "dhcp": False,
        "gateway": False,
        "vms": [
            {
                "name": "web",
                "image": "tiny",
                "flavor": "tiny",
                "different_host": ["db", "cache"],
                "dhcp": False,
            },
            {"image": "tiny", "cpu": 2, "ram": 512, "disk": 4, "host": "h1"},
        ],
        "ssh_keys": ["ssh-ed25519 AAAA me"],
        "expires_in": 43200,
    }


async def test_a_failure_ends_with_1_and_says_host_by_host_why(
    ctl_: Ctl, twin: Twin, socket: str
) -> None:
    twin.terminal = {"outcome": "failed", "error": NO_HOST, "compensated": True}
    done = await ctl_(
        *("--socket", socket, "vm", "create", "demo"), *("--image", "tiny", "--flavor", "tiny")
    )
    assert done.status == 1
    assert "failed: no_valid_host: none of 2 hosts" in done.err
    assert re.search(r"h1 +ram: 64 MiB free, 128 wanted", done.err)
    assert re.search(r"h2 +state: the host is down", done.err)


async def test_with_json_a_result_is_one_document_and_nothing_else(
    ctl_: Ctl, twin: Twin, socket: str
) -> None:
    done = await ctl_("slice", "create", "demo", "--json", "--socket", socket)
    document = json.loads(done.out)
    assert (done.status, done.err) == (0, "")
    assert document["outcome"] == "succeeded"
    assert document["result"] == SLICE
    assert document["request_id"] == twin.posted[0]["id"]


async def test_with_json_a_failure_is_one_document_too(ctl_: Ctl, twin: Twin, socket: str) -> None:
    twin.terminal = {"outcome": "failed", "error": NO_HOST, "compensated": True}
    done = await ctl_("--json", "--socket", socket, "slice", "delete", "demo")
    assert done.status == 1
    assert json.loads(done.out)["error"] == NO_HOST


async def test_a_refused_request_has_failed(ctl_: Ctl, twin: Twin, socket: str) -> None:
    twin.refusal = (400, error("invalid_ipcount", "must be 64, 32, 16 or 8"))
    done = await ctl_("--socket", socket, "subnet", "create", "demo", "--ipcount", "7")
    assert done.status == 1
    assert "failed: invalid_ipcount: must be 64, 32, 16 or 8" in done.err


async def test_without_waiting_only_the_id_is_printed(ctl_: Ctl, twin: Twin, socket: str) -> None:
    done = await ctl_("--socket", socket, "slice", "delete", "demo", "--no-wait")
    assert (done.status, done.out) == (0, twin.posted[0]["id"] + "\n")
    assert twin.subscribed == []


async def test_without_a_stream_it_asks_for_the_request(
    ctl_: Ctl, twin: Twin, socket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "LOOK_EVERY", 0.05)
    twin.streams = False
    done = await ctl_("--socket", socket, "slice", "create", "demo")
    assert done.status == 0
    assert "2/2 boot done\n" in done.out


async def test_a_result_that_the_stream_lost_is_found_by_asking(
    ctl_: Ctl, twin: Twin, socket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "LOOK_EVERY", 0.05)
    twin.silent = True
    done = await ctl_("--json", "--socket", socket, "slice", "create", "demo")
    assert done.status == 0
    assert json.loads(done.out)["result"] == SLICE


async def test_no_server_ends_with_3_and_says_what_to_do(ctl_: Ctl, tmp_path: Path) -> None:
    done = await ctl_("--socket", str(tmp_path / "none.sock"), "slice", "list")
    assert (done.status, done.out) == (3, "")
    assert "systemctl status ccfd" in done.err


async def test_a_socket_that_nobody_serves_ends_with_3(ctl_: Ctl, tmp_path: Path) -> None:
    import socket as sockets

    path = str(tmp_path / "dead.sock")
    with sockets.socket(sockets.AF_UNIX) as dead:
        dead.bind(path)
    done = await ctl_("slice", "create", "demo", "--socket", path)
    assert done.status == 3
    assert "systemctl start ccfd" in done.err
    assert "stored" not in done.err


async def test_no_server_on_tcp_ends_with_3(ctl_: Ctl) -> None:
    done = await ctl_("--url", "http://127.0.0.1:1", "host", "list")
    assert done.status == 3
    assert "[http] listen" in done.err


async def test_the_token_goes_along(
    ctl_: Ctl, twin: Twin, socket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CCF_TOKEN", "s3cret")
    monkeypatch.setenv("CCF_HTTP_SOCKET", socket)
    await ctl_("slice", "delete", "demo", "--no-wait")
    assert twin.authorization == ["Bearer s3cret"]


async def test_lists_are_read_to_their_last_page(ctl_: Ctl, twin: Twin, socket: str) -> None:
    twin.lists["slices"] = [{**SLICE, "slice": name} for name in ("a", "b", "c")]
    done = await ctl_("--json", "--socket", socket, "slice", "list")
    assert [item["slice"] for item in json.loads(done.out)["items"]] == ["a", "b", "c"]
    done = await ctl_("--socket", socket, "slice", "list")
    assert [line.split()[0] for line in done.out.splitlines()] == ["SLICE", "a", "b", "c"]


async def test_what_tenants_write_cannot_steer_the_terminal(
    ctl_: Ctl, twin: Twin, socket: str
) -> None:
    done = await ctl_("--socket", socket, "slice", "show", "demo")
    assert done.status == 0
    assert "\x1b" not in done.out
    assert r"a \x1b[31mred" in done.out


async def test_a_slice_is_shown_with_who_holds_a_lease(ctl_: Ctl, twin: Twin, socket: str) -> None:
    done = await ctl_("--socket", socket, "slice", "show", "demo")
    lease = r"web +10.0.0.2 +02:01:0a:00:00:02 +2026-11-22 12:00:00Z +2026-11-22 13:00:00Z"
    assert re.search(lease, done.out)
    done = await ctl_("--json", "--socket", socket, "slice", "show", "demo")
    assert json.loads(done.out) == {**SLICE, "leases": [LEASE]}


async def test_a_missing_document_ends_with_1(ctl_: Ctl, twin: Twin, socket: str) -> None:
    done = await ctl_("--json", "--socket", socket, "vm", "show", "none")
    assert done.status == 1
    assert json.loads(done.out)["error"]["code"] == "vm_not_found"


async def test_a_vm_may_be_named_by_its_slice_and_name(ctl_: Ctl, twin: Twin, socket: str) -> None:
    done = await ctl_("--socket", socket, "vm", "delete", "demo/web", "--no-wait")
    assert done.status == 0
    assert twin.posted[0]["data"] == {"vm": VM["vm"]}
    done = await ctl_("--socket", socket, "vm", "delete", "demo/none")
    assert done.status == 1
    assert "vm_not_found" in done.err


@pytest.mark.parametrize(
    ("words", "kind", "more"),
    [
        ("vm start 7", "vm.start", {}),
        ("vm stop 7", "vm.stop", {}),
        ("vm stop 7 --force", "vm.stop", {"force": True}),
        ("vm reboot 7 --force", "vm.reboot", {"force": True}),
        ("vm suspend 7", "vm.suspend", {}),
        ("vm resume 7", "vm.resume", {}),
        ("vm resize 7 --flavor big", "vm.resize", {"flavor": "big"}),
        ("vm snapshot create 7 s", "vm.snapshot_create", {"snapshot": "s"}),
        ("vm snapshot revert 7 s", "vm.snapshot_revert", {"snapshot": "s"}),
        ("vm snapshot delete 7 s", "vm.snapshot_delete", {"snapshot": "s"}),
    ],
)
async def test_what_a_vm_shall_do_is_sent(
    ctl_: Ctl, served: Twin, words: str, kind: str, more: dict[str, object]
) -> None:
    done = await ctl_(*words.split(), "--no-wait")
    assert done.status == 0, done.err
    assert (served.posted[0]["type"], served.posted[0]["data"]) == (kind, {"vm": "7", **more})


@pytest.mark.parametrize("word", ["start", "stop"])
async def test_slices_start_and_stop(ctl_: Ctl, served: Twin, word: str) -> None:
    await ctl_("slice", word, "demo", "--no-wait")
    assert served.posted[0]["type"] == f"slice.{word}"


async def test_a_request_is_shown_with_its_steps(ctl_: Ctl, twin: Twin, socket: str) -> None:
    await ctl_("--socket", socket, "slice", "create", "demo")
    done = await ctl_("--socket", socket, "request", "show", twin.posted[0]["id"])
    assert re.search(r"make-bridge +done +1", done.out)


async def test_a_dead_letter_is_found_and_sent_again(ctl_: Ctl, twin: Twin, socket: str) -> None:
    letter = {"message_id": "m1", "type": "subnet.grow", "error": "unknown_type", "detail": "no"}
    twin.lists["dead"] = [{**letter, "buried_at": "2026-11-22T12:00:00.000Z"}]
    done = await ctl_("--socket", socket, "dead", "list")
    assert done.out.splitlines()[1].split()[:3] == ["m1", "subnet.grow", "unknown_type"]
    done = await ctl_("--json", "--socket", socket, "dead", "requeue", "m1")
    assert json.loads(done.out) == {"request_id": "m1 again"}


async def test_an_event_is_applied_from_a_file_with_its_own_id(
    ctl_: Ctl, twin: Twin, socket: str, tmp_path: Path
) -> None:
    event = {"id": "mine", "type": "slice.delete", "data": {"slice": "demo", "extra": None}}
    (tmp_path / "event.json").write_text(json.dumps(event))
    done = await ctl_("--socket", socket, "apply", "-f", str(tmp_path / "event.json"))
    assert done.status == 0
    assert twin.posted == [event]


@pytest.mark.parametrize(
    "arguments",
    [
        ("slice", "create", "demo", "--vm", "web"),
        ("slice", "create", "demo", "--vm", "image=tiny,cpu=many"),
        ("slice", "create", "demo", "--vm", "name=web,flavor=tiny"),
        ("slice", "create", "demo", "--expires-in", "soon"),
        ("slice", "create", "demo", "--ssh-key", "/nowhere.pub"),
        ("vm", "create", "demo", "--image", "tiny"),
        ("vm", "create", "demo", "--image", "tiny", "--flavor", "tiny", "--cpu", "1"),
        ("apply", "-f", "/nowhere.json"),
        ("--url", "127.0.0.1:8780", "slice", "list"),
        ("--url", "http://a", "--socket", "b", "slice", "list"),
        ("slice", "paint"),
    ],
)
async def test_wrong_usage_ends_with_2_before_anybody_is_asked(
    ctl_: Ctl, arguments: tuple[str, ...]
) -> None:
    done = await ctl_(*arguments)
    assert (done.status, done.out) == (2, "")
    assert "Error" in done.err


@contextmanager
def begun(socket: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run ccfctl as a process of its own, and leave none behind."""
    process = subprocess.Popen(
        [sys.executable, "-c", "from ccfd.cli.ctl import main; main()", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"CCF_HTTP_SOCKET": socket},
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


async def test_an_interrupted_wait_says_that_the_request_goes_on(twin: Twin, socket: str) -> None:
    twin.never_ends = True
    posted = asyncio.Event()
    twin.on_post = posted.set
    with begun(socket, "slice", "create", "demo") as process:
        async with asyncio.timeout(AMPLE):
            await posted.wait()
        process.send_signal(signal.SIGINT)
        _, err = await asyncio.to_thread(process.communicate, timeout=AMPLE)
    assert process.returncode == 130
    assert f"ccfctl request show {twin.posted[0]['id']}" in err


async def test_watching_goes_on_after_the_last_event_when_the_connection_was_lost(
    twin: Twin, socket: str
) -> None:
    twin.lose_stream_after = 1
    notice = {"type": "subnet.expired", "owner": "demo", "subnet": "10.0.0.1/26"}
    with begun(socket, "watch", "--json", "--slice", "demo") as process:
        assert process.stdout is not None
        lines = []
        for _ in (1, 2):
            async with asyncio.timeout(AMPLE):
                await twin.came.acquire()
            twin.say("x", notice)
            lines.append(json.loads(await asyncio.to_thread(process.stdout.readline)))
        process.send_signal(signal.SIGINT)
        await asyncio.to_thread(process.communicate, timeout=AMPLE)
    assert process.returncode == 130
    assert lines == [{"id": n, "event": "subnet.expired.x", "data": notice} for n in (1, 2)]
    assert twin.subscribed == [("demo", None), ("demo", "1")]


def test_help_comes_at_once() -> None:
    # Not by the clock of a busy machine: by what is not loaded for it.
    code = (
        "import sys; from ccfd.cli import ctl\n"
        "heavy = {'aiohttp', 'rich', 'pydantic', 'sqlalchemy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=AMPLE)


async def test_recovering_shows_what_it_does_before_it_does_it(
    ctl_: Ctl, twin: Twin, socket: str
) -> None:
    at = ("--socket", socket, "recover")
    assert (await ctl_(*at)).status == 2
    assert twin.recovered == []
    planned = await ctl_(*at, "--from-hosts", "--plan")
    assert planned.status == 0
    assert twin.recovered == ["GET"]
    for line in (r"demo +rebuilt +1001 +10.0.0.1/26 +1", r"other +VNI 7 is also", "no answer"):
        assert re.search(line, planned.out)
    done = await ctl_(*at, "--from-hosts")
    assert twin.recovered == ["GET", "GET", "POST"]
    assert done.out.startswith(planned.out)
    assert re.search(r"slices made again +demo", done.out)
    printed = await ctl_(*at, "--from-hosts", "--json")
    assert json.loads(printed.out)["slices"][0]["slice"] == "demo"
    assert twin.recovered[3:] == ["POST"]


async def test_a_slices_private_key_is_printed_as_it_is(ctl_: Ctl, socket: str) -> None:
    done = await ctl_("--socket", socket, "slice", "ssh-key", "demo")
    assert (done.status, done.out, done.err) == (0, "-----\nsecret\n", "")
    shown = await ctl_("--socket", socket, "--json", "slice", "ssh-key", "demo")
    assert json.loads(shown.out) == SSH_KEY


async def test_a_private_key_goes_to_a_new_file_that_nobody_else_may_read(
    ctl_: Ctl, socket: str, tmp_path: Path
) -> None:
    path = tmp_path / "demo.key"
    words = ("--socket", socket, "slice", "ssh-key", "demo", "--output", str(path))
    done = await ctl_(*words)
    assert (done.status, done.out) == (0, "")
    assert path.read_text() == "-----\nsecret\n"
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("another")
    again = await ctl_(*words)
    assert again.status == 2
    assert "File exists" in again.err
    assert path.read_text() == "another"
