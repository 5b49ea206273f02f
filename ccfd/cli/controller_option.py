"""Reads what `--controller` says. Pure."""

import ipaddress
from typing import Any

CONTROLLER_HELP = (
    "The OpenFlow controller that its switches dial: one of your own, ADDRESS or ADDRESS:PORT "
    "(an IPv6 address with a port in brackets; port 6633 where none is given)"
)


def read_controller(option: str) -> dict[str, Any]:
    """Read an address with or without a port; raise `ValueError`."""
    address, port = option, ""
    if not _is_address(option):
        address, _, port = option.rpartition(":")
        address = address.removeprefix("[").removesuffix("]")
    if not _is_address(address) or (port and not port.isdecimal()):
        raise ValueError(f"{option!r} is neither ADDRESS nor ADDRESS:PORT")
    return {"address": address, **({"port": int(port)} if port else {})}


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
