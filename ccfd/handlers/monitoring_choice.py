"""How it is decided who is told what passes a slice's bridges."""

from dataclasses import asdict
from typing import Any

from ccfd.errors import Refused
from ccfd.handlers.controller_choice import whose
from ccfd.model.network import Monitoring
from ccfd.requests import events
from ccfd.settings import Settings


def of_tenant(asked: events.Monitoring | None, settings: Settings) -> Monitoring | None:
    """Return the collectors that were *asked* for, or None where none were.

    Raises `Refused` (`invalid_state`) where one has an address of ours: what switches send there
    holds what tenants say.
    """
    if asked is None:
        return None
    for collector in (asked.sflow, asked.ipfix):
        address = "" if collector is None else collector.rpartition(":")[0].strip("[]")
        owner = whose(address, settings) if address else ""
        if owner:
            raise Refused(
                "invalid_state", f"{address} is {owner}: give a collector of your own elsewhere"
            )
    return Monitoring(sflow=asked.sflow, ipfix=asked.ipfix)


def to_row(monitoring: Monitoring | None) -> dict[str, Any] | None:
    """Write collectors as the slice's row and document show them."""
    return None if monitoring is None else asdict(monitoring)


def of_row(row: dict[str, Any] | None) -> Monitoring | None:
    """Read what `to_row` wrote."""
    return None if row is None else Monitoring(**row)
