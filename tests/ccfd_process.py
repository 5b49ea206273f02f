"""ccfd as it really runs: one process or several on the lab's network node."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.lab import Lab
from tests.lab.layout import CHECKOUT, HTTP_PORT, NODE


class CcfdProcess:
    """One `ccfd run`; `environment` overrides settings (`CCFD_SECTION__KEY`).

    Where several run on one database, each but the first has a *number* from 2 on: it has a port
    of its own, and no socket.
    """

    def __init__(
        self, lab: Lab, environment: dict[str, str] | None = None, *, number: int = 1
    ) -> None:
        self._lab = lab
        self._environment = environment or {}
        self._process: subprocess.Popen[bytes] | None = None
        self._url = lab.env["CCF_HTTP_URL"]
        self.log = lab.layout.dir / "ccfd.log"
        if number > 1:
            listen = f"{lab.layout.management(NODE)}:{HTTP_PORT + number - 1}"
            mine = {"CCFD_HTTP__LISTEN": listen, "CCFD_HTTP__SOCKET": ""}
            self._environment = {**mine, **self._environment}
            self._url = f"http://{listen}"
            self.log = lab.layout.dir / f"ccfd-{number}.log"

    def __enter__(self) -> CcfdProcess:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self, within: float = 90.0) -> None:
        """Start it; return when it is ready."""
        program = CHECKOUT / ".venv" / "bin" / "ccfd"
        config = self._lab.layout.dir / "ccfd.toml"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._lab.exec_argv("node", [str(program), "run", "--config", str(config)]),
                env={**os.environ, **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.wait_ready(within)

    def wait_ready(self, within: float = 90.0) -> None:
        """Return when `/readyz` says so."""
        end = time.monotonic() + within
        while True:
            if self._process is not None and self._process.poll() is not None:
                raise RuntimeError(f"ccfd ended:\n{self.tail()}")
            try:
                self.get("/readyz")
            except OSError as exc:
                if time.monotonic() > end:
                    raise TimeoutError(f"ccfd is not ready: {exc}\n{self.tail()}") from exc
            else:
                return
            time.sleep(0.05)

    def stop(self, within: float = 60.0) -> int:
        """Ask it to stop; return its exit status."""
        return self._end(signal.SIGTERM, within)

    def kill(self) -> None:
        """Kill it as the kernel would."""
        self._end(signal.SIGKILL, 60.0)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal and go on."""
        assert self._process is not None, "it does not run"
        self._process.send_signal(number)

    def _end(self, number: signal.Signals, within: float) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        if process.poll() is None:
            process.send_signal(number)
        try:
            return process.wait(within)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def tail(self, lines: int = 30) -> str:
        """Return the end of its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def get(self, path: str) -> Any:
        """Read a document of the API; raise `OSError` on every status but 200."""
        return json.loads(self._call("GET", path))

    def post(self, path: str) -> Any:
        """Ask for something to be done; raise `OSError` on every status but 200."""
        return json.loads(self._call("POST", path))

    def metric(self, name: str, labels: str = "") -> float:
        """Return a metric, summed over its labels; *labels* is how those that count begin."""
        lines = self._call("GET", "/metrics").decode().splitlines()
        begin = f"{name}{{{labels}"
        return sum(float(line.split()[-1]) for line in lines if line.startswith(begin))

    def _call(self, method: str, path: str) -> bytes:
        request = urllib.request.Request(self._url + path, method=method)
        request.add_header("Authorization", f"Bearer {self._lab.env['CCF_TOKEN']}")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                said: bytes = answer.read()
                return said
        except urllib.error.HTTPError as exc:
            raise OSError(f"{exc.code}: {exc.read().decode(errors='replace')}") from exc


def sqlite(folder: Path) -> dict[str, str]:
    """Return the environment for the embedded database in *folder*."""
    return {"CCFD_DATABASE__URL": f"sqlite+aiosqlite:///{folder / 'ccfd.db'}"}
