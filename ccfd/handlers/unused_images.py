"""Which base images on a host have had no use for so long that they go: pure.

An image goes in two strides (docs/adr/0018): its mark first, from when on no disk is built on it
until it was sent again; the file when it has lain there without a mark for a while.
"""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class OnHost:
    """What is remembered of an image on a host; None: it is in use; it has its mark."""

    checksum: str
    unused_since: datetime | None
    unmarked_since: datetime | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be remembered of a host's images, and which lose their mark or their file."""

    known: tuple[OnHost, ...]
    retired: tuple[str, ...]
    removed: tuple[str, ...]


def judge(
    seen: Mapping[str, bool],
    known: Iterable[OnHost],
    used: Set[str],
    now: datetime,
    *,
    unused_for: timedelta | None,
    unmarked_for: timedelta,
) -> Verdict:
    """Judge what a host holds: *seen* tells of each checksum whether it has its mark.

    *used* are the checksums that VMs of the host have. Nothing goes where *unused_for* is None.
    """
    before = {one.checksum: one for one in known}
    kept, retired, removed = [], [], []
    for checksum, is_marked in sorted(seen.items()):
        old = before.get(checksum, OnHost(checksum, None, None))
        unused = None if checksum in used else old.unused_since or now
        unmarked = None if is_marked else old.unmarked_since or now
        kept.append(OnHost(checksum, unused, unmarked))
        if unused is None or unused_for is None:
            continue
        if unmarked is None:
            if now - unused >= unused_for:
                retired.append(checksum)
        elif now - max(unused, unmarked) >= unmarked_for:
            removed.append(checksum)
    return Verdict(tuple(kept), tuple(retired), tuple(removed))
