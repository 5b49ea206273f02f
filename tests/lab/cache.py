"""What is worth keeping between labs, and where? (`.cache/lab` in the checkout)

Every entry's name carries a digest of all that it is made from, and an entry appears in one step,
so a reader needs no lock and a killed builder leaves nothing half done.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.lab.layout import CHECKOUT
from tests.lab.shell import run

FOLDER = CHECKOUT / ".cache" / "lab"


def digest(*parts: bytes | str) -> str:
    """Return a short digest of the parts."""
    total = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        total.update(len(raw).to_bytes(8, "big") + raw)
    return total.hexdigest()[:16]


def package_versions(*packages: str) -> str:
    """Return the installed versions of Debian packages, as part of a digest."""
    return run(["dpkg-query", "-W", "-f", "${Package} ${Version}\n", *packages])


def built(name: str, build: Callable[[Path], object]) -> Path:
    """Return the entry of that name; where it is missing, *build* makes it at the path it gets."""
    entry = FOLDER / name
    if entry.exists():
        return entry
    with _building(name):
        if not entry.exists():  # another lab may have built it while this one waited
            draft = FOLDER / "draft" / name
            # What a killed builder left; nobody else can be at it.
            _remove(draft)
            draft.parent.mkdir(exist_ok=True)
            build(draft)
            draft.rename(entry)
    return entry


@contextmanager
def _building(name: str) -> Iterator[None]:
    locks = FOLDER / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def qemu_capabilities() -> Path | None:
    """Return libvirt's kept answer to "what can this QEMU do"; asking anew costs 4 to 8 s."""
    entry = _capabilities_entry()
    return entry if entry.exists() else None


def keep_qemu_capabilities(found: Path) -> None:
    """Keep what a host's libvirt found out, for the hosts after it."""
    if any(found.glob("*.xml")):
        built(_capabilities_entry().name, partial(shutil.copytree, found))


def _capabilities_entry() -> Path:
    # libvirt believes its cache while these are as they were, and asks again where they are not.
    facts = [package_versions("qemu-system-x86", "libvirt-daemon"), os.uname().release]
    programs = ("/usr/bin/qemu-system-x86_64", "/usr/sbin/libvirtd")
    facts += [str(os.stat(program).st_ctime) for program in programs]
    return FOLDER / f"qemu-capabilities-{digest(*facts)}"
