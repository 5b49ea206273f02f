"""What of a lab runs?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLong
from functools import partial

from tests.lab import libvirtd, outside, postgres, rabbit, switch
from tests.lab.layout import Layout

_PATIENCE = 8


def look(layout: Layout) -> Iterator[tuple[str, str]]:
    """Give each part of the lab and what is wrong with it, "" where it is up."""
    checks = dict(_checks(layout))
    # Not as a context manager: that would wait for a client stuck on a stopped daemon.
    pool = ThreadPoolExecutor(max_workers=len(checks))
    asked = {name: pool.submit(check) for name, check in checks.items()}
    for name, answer in asked.items():
        try:
            yield name, "" if answer.result(timeout=_PATIENCE) else "does not answer"
        except TooLong:
            yield name, f"no answer in {_PATIENCE} s"
        except Exception as exc:  # whatever its client raises is the finding
            yield name, f"{type(exc).__name__}: {exc}"
    pool.shutdown(wait=False, cancel_futures=True)


def _checks(layout: Layout) -> Iterator[tuple[str, Callable[[], bool]]]:
    for host in layout.compute:
        uri = layout.libvirt_uri(host)
        yield f"{host} libvirt {uri}", partial(libvirtd.answers, layout, host)
    for place in layout.switched:
        address = layout.management(place)
        yield f"{place} openvswitch ssl:{address}", partial(switch.answers, layout, place)
    yield f"rabbitmq {layout.amqp_url}", partial(rabbit.answers, layout)
    yield f"postgresql {layout.database_url}", partial(postgres.answers, layout)
    yield "outside web server", partial(outside.answers, layout)
