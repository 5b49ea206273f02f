"""How long was this machine short of processors?"""

from pathlib import Path

_PRESSURE = Path("/proc/pressure/cpu")


def short_of_processors() -> float:
    """Return the seconds, since it was started, in which somebody waited for a processor.

    A promise of so many seconds is one of a machine that has time for it: a test may leave these
    out. https://docs.kernel.org/accounting/psi.html; 0 where the kernel does not count them.
    """
    if not _PRESSURE.exists():
        return 0.0
    some = _PRESSURE.read_text().splitlines()[0]
    return int(some.rpartition("total=")[2]) / 1e6
