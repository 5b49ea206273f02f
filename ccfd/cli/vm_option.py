"""Reads what `--vm`, `--expires-in` and `--ssh-key` say. Pure, but for reading the key's file."""

from pathlib import Path
from typing import Any

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
NUMBERS = ("cpu", "ram", "disk", "bandwidth")
LISTS = ("same_host", "different_host")
TEXTS = ("name", "image", "flavor", "host")
VM_HELP = (
    "A VM, as KEY=VALUE pairs joined by commas; may be repeated. Keys: name, image, flavor "
    "(or cpu, ram in MiB and disk in GiB), bandwidth in Mbit/s, host, dhcp (yes or no), same-host "
    "and different-host (names of VMs, joined by +). Example: "
    "--vm name=web,image=tiny,flavor=tiny,different-host=db"
)


def read_vm(option: str) -> dict[str, Any]:
    """Read one `--vm`; raise `ValueError` that says what is wrong."""
    vm: dict[str, Any] = {}
    for pair in option.split(","):
        key, equals, value = pair.strip().partition("=")
        name = key.replace("-", "_")
        if not equals or not value:
            raise ValueError(f"{pair!r} is not KEY=VALUE")
        if name in vm:
            raise ValueError(f"{key} stands twice")
        vm[name] = _value(name, key, value)
    if "image" not in vm:
        raise ValueError(f"{option!r} names no image")
    return vm


def _value(name: str, key: str, value: str) -> Any:
    if name in TEXTS:
        return value
    if name in LISTS:
        return value.split("+")
    if name in NUMBERS:
        if not value.isdecimal():
            raise ValueError(f"{key} must be a whole number, not {value!r}")
        return int(value)
    if name == "dhcp":
        if value not in ("yes", "no"):
            raise ValueError(f"dhcp must be yes or no, not {value!r}")
        return value == "yes"
    raise ValueError(f"unknown key {key!r}")


def read_duration(option: str) -> int:
    """Read seconds, or a number with a unit: 90, 90s, 15m, 12h, 30d; raise `ValueError`."""
    number, unit = (option[:-1], option[-1:]) if option[-1:] in UNITS else (option, "s")
    if not number.isdecimal():
        raise ValueError(f"{option!r} is no duration: say 90, 90s, 15m, 12h or 30d")
    return int(number) * UNITS[unit]


def read_keys(path: Path) -> list[str]:
    """Return the public keys of a file, one a line; raise `ValueError`."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise ValueError(f"cannot read {path}: {exc}") from exc
    keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if any("PRIVATE KEY" in key for key in keys):
        raise ValueError(f"{path} is a private key: name its .pub file")
    if not keys:
        raise ValueError(f"{path} holds no key")
    return keys
