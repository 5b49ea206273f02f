"""What a VM may send at most, as OpenFlow meters of the guard, in the words of `ovs-ofctl`.

A meter drops what comes faster than its rate; it has the number of its VM's tap on the guard, and
the flows that let the VM's packets pass send them through it (docs/adr/0021). See ovs-ofctl(8),
"Group and Meter Commands". Meters are no part of a bundle, and forgotten as flows are.
"""

import re
from collections.abc import Mapping

KBIT = 1000
"""Kilobits in a Mbit: a meter's rate is in kilobits a second."""

BURST = 10
"""What may come at once: as much as in this part of a second. TCP needs some."""

_METER = re.compile(r"^meter=(\d+) (.*) bands=\n(.*)$", re.MULTILINE)


def meter(number: int, bandwidth: int) -> str:
    """Return the meter *number* for *bandwidth* in Mbit/s, as `add-meter` wants it."""
    rate = bandwidth * KBIT
    return f"meter={number},kbps,burst,bands=type=drop,rate={rate},burst_size={rate // BURST}"


def read(printed: str) -> dict[int, str]:
    """Return the meters that `ovs-ofctl dump-meters` printed, by their numbers, as `meter` does."""
    return {
        int(number): f"meter={number},{kind.replace(' ', ',')},bands={band.replace(' ', ',')}"
        for number, kind, band in _METER.findall(printed)
    }


def differences(
    wanted: Mapping[int, int], present: Mapping[int, str]
) -> tuple[dict[int, int], list[int]]:
    """Return which of the meters *wanted* (Mbit/s by number) are not so, and which are too much."""
    wrong = {
        number: bandwidth
        for number, bandwidth in wanted.items()
        if present.get(number) != meter(number, bandwidth)
    }
    return wrong, sorted(present.keys() - wanted.keys())
