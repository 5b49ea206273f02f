"""Reads what `--controller` says. Pure."""

import ipaddress
from typing import Any

CONTROLLER_HELP = (
    "The OpenFlow controller that its switches dial: the name of an image, which is run for it, "
    "or one of your own, ADDRESS or ADDRESS:PORT (an IPv6 address with a port in brackets; port "
    "6633 where none is given)."
)


def read_controller(option: str) -> dict[str, Any]:
    """Read an image's name, or an address with or without a port; raise `ValueError`."""
    if _is_address(option):
        return {"address": option}
    address, colon, port = option.rpartition(":")
    if not colon:
        return {"image": option}
    address = address.removeprefix("[").removesuffix("]")
    if not _is_address(address) or not port.isdecimal():
        raise ValueError(f"{option!r} is neither an image's name nor ADDRESS or ADDRESS:PORT")
    return {"address": address, "port": int(port)}


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
