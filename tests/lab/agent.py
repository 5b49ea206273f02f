"""How is a command run inside a guest? By its QEMU agent, through libvirt, with no network."""

from __future__ import annotations

import base64
import json
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from queue import Empty, Queue

import libvirt
import libvirt_qemu

from tests.lab.layout import Layout
from tests.lab.shell import LabError


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command in a guest said, and its exit status."""

    status: int
    stdout: bytes
    stderr: bytes


class Guest:
    """One guest whose agent answers."""

    def __init__(self, domain: libvirt.virDomain) -> None:
        self._domain = domain

    def run(self, argv: Sequence[str], timeout: float) -> Outcome:
        """Run a command to its end; a single word with spaces is a shell's line."""
        words = ["sh", "-c", argv[0]] if len(argv) == 1 and " " in argv[0] else list(argv)
        started = self._ask(
            "guest-exec", {"path": words[0], "arg": words[1:], "capture-output": True}
        )
        deadline = time.monotonic() + timeout
        pause = 0.02
        while time.monotonic() < deadline:
            state = self._ask("guest-exec-status", {"pid": started["pid"]})
            if state["exited"]:
                return _outcome(state)
            time.sleep(pause)
            pause = min(pause * 1.5, 0.5)
        raise LabError(f"the command has not ended after {timeout:g} s")

    def ping(self) -> None:
        """Raise libvirtError unless the agent answers now."""
        self._ask("guest-ping", {}, timeout=5)

    def _ask(self, command: str, arguments: dict[str, object], timeout: int = 30) -> dict[str, int]:
        request = json.dumps({"execute": command, "arguments": arguments})
        reply = libvirt_qemu.qemuAgentCommand(self._domain, request, timeout, 0)
        answer: dict[str, int] = json.loads(reply)["return"]
        return answer


def _outcome(state: Mapping[str, object]) -> Outcome:
    return Outcome(
        # Ended by a signal: as a shell says it.
        status=int(str(state.get("exitcode", 128 + int(str(state.get("signal", 0)))))),
        stdout=base64.b64decode(str(state.get("out-data", ""))),
        stderr=base64.b64decode(str(state.get("err-data", ""))),
    )


def guest(layout: Layout, vm: str, timeout: float) -> Guest:
    """Find the guest on whatever host it is and wait for its agent, at most *timeout* seconds."""
    libvirt.registerErrorHandler(lambda *_: None, None)  # it prints every error by default
    found: Queue[Guest | None] = Queue()
    reasons: dict[str, str] = {}
    deadline = time.monotonic() + timeout

    def search(host: str) -> None:
        while time.monotonic() < deadline:
            try:
                candidate = _look_up(layout.libvirt_uri(host), vm)
                if candidate is None:
                    reasons[host] = "has no such VM"
                    break
                reasons[host] = "its guest agent does not answer"
                candidate.ping()
            except libvirt.libvirtError as exc:
                reasons[host] = str(exc)
                time.sleep(0.2)
            else:
                found.put(candidate)
                return
        found.put(None)

    # Daemons: a call to a stopped libvirtd never returns and must not keep this program.
    for host in layout.compute:
        threading.Thread(target=search, args=(host,), daemon=True).start()
    for _ in layout.compute:
        try:
            candidate = found.get(timeout=max(0, deadline - time.monotonic()))
        except Empty:
            break
        if candidate is not None:
            return candidate
    told = "; ".join(f"{host}: {reason}" for host, reason in sorted(reasons.items()))
    raise LabError(f"no answer from guest {vm} ({told or 'no host answers'})")


def _look_up(uri: str, vm: str) -> Guest | None:
    """Find the VM on one host, None where that host has no such VM."""
    connection = libvirt.open(uri)
    try:
        return Guest(connection.lookupByUUIDString(vm))
    except libvirt.libvirtError as exc:
        if exc.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def run_in_guest(layout: Layout, vm: str, argv: Sequence[str], timeout: float, total: float) -> int:
    """Run a command in the guest, pass on what it says, and return its exit status."""
    outcome = guest(layout, vm, timeout).run(argv, total)
    sys.stdout.buffer.write(outcome.stdout)
    sys.stdout.buffer.flush()
    sys.stderr.buffer.write(outcome.stderr)
    sys.stderr.buffer.flush()
    return outcome.status
