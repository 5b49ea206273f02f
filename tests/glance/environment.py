"""Where do Glance and Keystone come from? A virtual environment of their own, in the cache.

It and the servers' databases take a minute and a half to make: both are made once a checkout.
"""

from __future__ import annotations

import base64
import secrets
import sys
from contextlib import suppress
from pathlib import Path

from tests.lab.cache import built, digest
from tests.lab.layout import CHECKOUT
from tests.lab.shell import LabError, run

CONSTRAINTS = Path(__file__).parent / "constraints.txt"
PACKAGES = ["glance", "keystone", "gunicorn"]
PASSWORD = "secret"


def program(name: str) -> list[str]:
    """Return the words that run a program of the environment.

    The environment was moved after it was made: the interpreter that a program's first line names
    is not there.
    """
    folder = built(f"openstack-{_digest()}", _install) / "bin"
    return [str(folder / "python"), "-W", "ignore", str(folder / name)]


def glance_database() -> Path:
    """Return a database of Glance with no image in it."""
    return built(f"glance-{_digest()}", _make_glance) / "glance.sqlite"


def keystone_state() -> Path:
    """Return a folder with Keystone's keys, and a database in which `admin` has `PASSWORD`."""
    return built(f"keystone-{_digest(keystone_conf(Path()))}", _make_keystone)


def keystone_conf(folder: Path) -> str:
    """Write Keystone's settings."""
    return f"""
[database]
connection = sqlite:///{folder}/keystone.sqlite
[fernet_tokens]
key_repository = {folder}/fernet
[fernet_receipts]
key_repository = {folder}/fernet
[credential]
key_repository = {folder}/credential
[identity]
password_hash_algorithm = bcrypt
password_hash_rounds = 4
"""


def _digest(*more: str) -> str:
    return digest(CONSTRAINTS.read_bytes(), sys.version, *PACKAGES, *more)


def _install(folder: Path) -> None:
    run(["/usr/bin/python3", "-m", "venv", str(folder)])
    wanted = ["-c", str(CONSTRAINTS), *PACKAGES]
    # As in tools/setup: uv is faster, and pip is the one that must work.
    uv = [str(CHECKOUT / ".venv/bin/uv"), "pip", "install", "-q", "--compile-bytecode"]
    with suppress(LabError, OSError):
        run([*uv, "--python", str(folder / "bin/python"), *wanted], timeout=240)
        return
    pip = [str(folder / "bin/python"), "-m", "pip", "install", "-q", "--compile"]
    run([*pip, *wanted], timeout=600)


def _make_glance(folder: Path) -> None:
    folder.mkdir()
    conf = folder / "glance.conf"
    conf.write_text(f"[database]\nconnection = sqlite:///{folder}/glance.sqlite\n")
    run([*program("glance-manage"), "--config-file", str(conf), "db_sync"], timeout=120)


def _make_keystone(folder: Path) -> None:
    folder.mkdir()
    for keys in ("fernet", "credential"):
        (folder / keys).mkdir()
        for number in range(2):
            key = base64.urlsafe_b64encode(secrets.token_bytes(32))
            (folder / keys / str(number)).write_bytes(key)
    conf = folder / "keystone.conf"
    conf.write_text(keystone_conf(folder))
    manage = [*program("keystone-manage"), "--config-file", str(conf)]
    run([*manage, "db_sync"], timeout=120)
    user = ["--bootstrap-username", "admin", "--bootstrap-project-name", "admin"]
    secret = ["--bootstrap-password", PASSWORD, "--bootstrap-region-id", "lab"]
    run([*manage, "bootstrap", *user, *secret], timeout=120)


def main() -> None:
    """Make all of it: it may take longer than a test."""
    program("gunicorn")
    glance_database()
    keystone_state()


if __name__ == "__main__":
    main()
