"""The lab itself: it comes up whole, commands run inside it, and nothing of it stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import libvirt
import pytest

from tests.lab import Lab
from tests.lab.layout import CHECKOUT, tag_of
from tests.lab.shell import LabError, wait_until

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="the lab makes namespaces: run as root")
pytestmark = [ROOT_ONLY, pytest.mark.timeout(300)]

FAST = 40.0
"""Seconds: it has 9 for an answer, and a minute for the end of a command."""

UNKNOWN_VM = "00000000-0000-4000-8000-00000000abcd"
VM = "00000000-0000-4000-8000-00000000beef"

DOMAIN = f"""
<domain type='qemu'><name>proof</name><uuid>{VM}</uuid><memory unit='MiB'>128</memory>
<os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features>
<devices>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
<source file='/var/lib/libvirt/images/proof.qcow2'/><target dev='vda' bus='virtio'/></disk>
<serial type='pty'/>
<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
</devices></domain>
"""


def command(*words: str, timeout: float = 150) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.lab", *words],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def traces(folder: Path) -> list[str]:
    """List what the machine still shows of a lab that was in *folder*."""
    links = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout
    found = [line for line in links.splitlines() if tag_of(folder.resolve()) in line]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found += [line for line in mounts if str(folder) in line]
    mark = os.fsencode(f"CCFD_LAB={folder}")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found.append(f"{process} {(process / 'comm').read_text()}")
        except OSError:
            continue
    found += [str(path) for path in folder.glob("*")] if folder.exists() else []
    return found


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    # pytest's folders are long and closed to other users: both have to be no trouble.
    folder = tmp_path_factory.mktemp("a-folder-with-quite-a-long-name-for-a-lab") / ("x" * 60)
    lab = Lab.up(folder, hosts=2)
    yield lab
    lab.down()
    assert traces(folder) == []
    assert not folder.exists()


def test_status_is_good_when_up_returns(lab: Lab) -> None:
    done = command("status", "--dir", str(lab.layout.dir))
    assert done.returncode == 0, done.stdout
    assert len(done.stdout.splitlines()) == 8


def test_the_settings_name_what_is_there(lab: Lab) -> None:
    settings = tomllib.loads((lab.layout.dir / "ccfd.toml").read_text())
    assert settings["broker"]["url"] == lab.env["CCF_AMQP_URL"]
    assert [host["name"] for host in settings["host"]] == ["h1", "h2"]
    assert settings["host"][0]["libvirt"] == lab.env["CCF_LIBVIRT_H1"]
    assert {network["type"] for network in settings["network"]} == {0, 1, 2}
    assert len(settings["http"]["socket"]) < 108
    assert (Path(settings["images"]["directory"]) / "tiny.qcow2").exists()
    assert Path(settings["slices"]["ssh_key_secret_file"]).stat().st_mode & 0o777 == 0o600


def test_a_shell_reads_the_environment(lab: Lab) -> None:
    script = f'. {lab.layout.dir}/env && printf %s "$CCF_LIBVIRT_H2"'
    read = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    assert read == lab.env["CCF_LIBVIRT_H2"]


def test_exec_becomes_the_command(lab: Lab) -> None:
    words = ["exec", "--dir", str(lab.layout.dir), "h1", "--", "sh", "-c"]
    script = "hostname; pwd; echo $WORD; echo $$; exec sleep 60"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.lab", *words, script],
        cwd=CHECKOUT,
        env={**os.environ, "WORD": "kept"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout as lines:
        told = [lines.readline().strip() for _ in range(4)]
        assert told == ["h1", str(CHECKOUT), "kept", str(process.pid)]
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == -signal.SIGTERM


def test_exec_passes_the_exit_status_on(lab: Lab) -> None:
    folder = str(lab.layout.dir)
    assert command("exec", "--dir", folder, "node", "--", "sh", "-c", "exit 7").returncode == 7
    assert command("exec", "--dir", folder, "h9", "--", "true").returncode == 1


def test_each_place_has_a_switch_of_its_own(lab: Lab) -> None:
    lab.run("h1", ["ovs-vsctl", "add-br", "only-h1"])
    assert "only-h1" in lab.run("h1", ["ovs-vsctl", "list-br"]).stdout
    assert lab.run("h2", ["ovs-vsctl", "list-br"]).stdout.split() == ["br-phy"]
    assert lab.run("node", ["ovs-vsctl", "list-br"]).stdout.split() == ["br-ext", "br-phy"]


def test_the_underlay_carries_long_packets(lab: Lab) -> None:
    # 1572 and 28 bytes of headers are the whole of 1600; -M do forbids fragments.
    ping = ["ping", "-c", "1", "-W", "5", "-M", "do", "-s", "1572", lab.layout.tunnel("h2")]
    lab.run("h1", ping)


def test_namespaces_of_the_node_stay_its_own(lab: Lab) -> None:
    lab.run("node", ["ip", "netns", "add", "proof"])
    assert "proof" in lab.run("node", ["ip", "netns"]).stdout
    assert "proof" not in lab.run("h1", ["ip", "netns"]).stdout
    listed = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    assert "proof" not in listed


def test_the_node_reaches_the_outside_through_its_bridge(lab: Lab) -> None:
    lab.run("node", ["ip", "address", "add", "203.0.113.9/24", "dev", "br-ext"])
    fetch = "import urllib.request as r; print(r.urlopen('http://203.0.113.254/').read().decode())"
    assert "outside" in lab.run("node", [sys.executable, "-c", fetch]).stdout
    lab.run("node", ["ip", "address", "del", "203.0.113.9/24", "dev", "br-ext"])


def test_kvm_is_hidden_from_the_hosts_only(lab: Lab) -> None:
    assert lab.run("h1", ["test", "-e", "/dev/kvm"], check=False).returncode == 1
    lab.run("h1", ["test", "-c", "/dev/net/tun"])


def test_guest_fails_fast_when_there_is_no_such_vm(lab: Lab) -> None:
    started = time.monotonic()
    done = command("guest", "--dir", str(lab.layout.dir), UNKNOWN_VM, "--", "true")
    assert done.returncode != 0
    assert UNKNOWN_VM in done.stderr
    assert time.monotonic() - started < FAST


def test_a_guest_boots_and_runs_commands_by_its_agent(lab: Lab) -> None:
    pool = lab.layout.home("h1") / "lib-libvirt" / "images"
    image = lab.layout.images / "tiny.qcow2"
    subprocess.run(["cp", str(image), str(pool / "proof.qcow2")], check=True)
    connection = libvirt.open(lab.env["CCF_LIBVIRT_H1"])
    try:
        domain = connection.createXML(DOMAIN)
        folder = str(lab.layout.dir)
        # Emulated, on a machine that is busy with other tests: 5 s by itself, a minute then.
        wait_until(
            lambda: command("guest", "--dir", folder, VM, "--", "true").returncode == 0,
            "guest",
            timeout=120,
        )
        said = command("guest", "--dir", folder, VM, "--", "echo out; echo err >&2; exit 3")
        assert (said.stdout, said.stderr, said.returncode) == ("out\n", "err\n", 3)
        kept = command("guest", "--dir", folder, VM, "--", "echo", "two  words", "$HOME")
        assert kept.stdout == "two  words $HOME\n"
        domain.suspend()
        started = time.monotonic()
        assert command("guest", "--dir", folder, VM, "--", "true").returncode != 0
        assert time.monotonic() - started < FAST
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("place", "program", "name"),
    [
        ("h2", "libvirtd", "libvirtd"),
        ("h2", "ovsdb-server", "ovsdb-server"),
        ("services", "beam.smp", "rabbitmq"),
        ("services", "postgres", "postgresql"),
    ],
)
def test_a_killed_daemon_is_seen_and_starts_again(
    lab: Lab, place: str, program: str, name: str
) -> None:
    pids = lab.pids(place, program)
    assert pids
    for pid in pids:
        with suppress(ProcessLookupError):  # one that ended with its parent
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not lab.pids(place, program), f"the end of {program}")
    folder = str(lab.layout.dir)
    assert command("status", "--dir", folder).returncode == 1
    lab.start(place, name)
    wait_until(lambda: command("status", "--dir", folder).returncode == 0, name)


def test_a_killed_up_is_cleared_by_the_next(tmp_path: Path) -> None:
    folder = tmp_path / "lab"
    words = [sys.executable, "-m", "tests.lab", "up", "--hosts", "1", "--dir", str(folder)]
    process = subprocess.Popen(words, cwd=CHECKOUT)
    try:
        wait_until((folder / "h1" / "run" / "openvswitch" / "db.sock").exists, "half a lab")
        process.kill()
        process.wait()
        lab = Lab.up(folder, hosts=1)
        assert command("status", "--dir", str(folder)).returncode == 0
        lab.down()
        lab.down()
    finally:
        command("down", "--dir", str(folder))
    assert traces(folder) == []


def test_up_refuses_a_folder_with_files_of_others(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(LabError, match="images"):
        Lab.up(tmp_path, hosts=1)
    assert (tmp_path / "images").exists()
