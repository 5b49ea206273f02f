"""What a plan looks like to people: what was chosen, and the steps in a few words each. Pure.

`--json` has all of it; here arguments that only a host understands are left out.
"""

from typing import Any

from ccfd.cli.sheets import Block, Column, Document, facts, result, sheet, text

_LONGEST = 64
_VMS = ("name", "host", "ip", "mac", "cpu", "ram", "disk", "flavor", "image", "slice")
_SAID_ELSEWHERE = frozenset({"host", "slice", "vni", "name", "vm"})


def plan(document: Document) -> list[Block]:
    """Describe what a request would do: facts, VMs, requests that it sends, steps."""
    chosen = document.get("plan") or {}
    if isinstance(chosen.get("slice"), dict):  # a slice that is made, and what is known besides
        chosen = {**chosen["slice"], **{k: v for k, v in chosen.items() if k != "slice"}}
    steps, requests = document.get("steps") or [], document.get("requests") or []
    told = {name: value for name, value in chosen.items() if _is_plain(value)}
    blocks: list[Block] = [facts({"type": document.get("type"), **told})]
    if document.get("result") is not None:
        blocks += result(document["result"])
    vms = [one for one in (chosen.get("vm"), *(chosen.get("vms") or ())) if isinstance(one, dict)]
    if vms:
        known = [name for name in _VMS if any(vm.get(name) is not None for vm in vms)]
        blocks.append(sheet("VMs", [_named(name) for name in known], vms))
    if requests:
        rows = [{"type": one["type"], **one["data"]} for one in requests]
        blocks.append(sheet("requests", [_named(name) for name in _fields(rows)], rows))
    if steps:
        names: Document = {vm["id"]: vm["name"] for vm in vms if "id" in vm}
        columns: tuple[Column, ...] = (
            ("step", lambda step: step["name"]),
            ("host", lambda step: _host(step["args"])),
            ("of", lambda step: _concerns(step["args"], names)),
        )
        blocks.append(sheet("steps", columns, steps))
    return blocks


def _fields(rows: list[Document]) -> dict[str, None]:
    return dict.fromkeys(name for row in rows for name in row)


def _named(name: str) -> Column:
    return name, lambda document: _label(document.get(name), {})


def _is_plain(value: Any) -> bool:
    """Say whether a value fits on a line: a scalar, or a few of them."""
    if isinstance(value, list):
        return bool(value) and all(_is_plain(item) for item in value)
    return value is not None and not isinstance(value, dict) and len(str(value)) <= _LONGEST


def _host(args: Document) -> str | None:
    """Find the host of a step: its own argument, or that of the machine or port it is about."""
    inner = [
        value["host"] for value in args.values() if isinstance(value, dict) and "host" in value
    ]
    return next((host for host in (args.get("host"), *inner) if host is not None), None)


def _concerns(args: Document, names: Document) -> str:
    words = [_label({"vm": args["vm"]}, names)] if "vm" in args else []
    for name, value in args.items():
        if name in _SAID_ELSEWHERE:
            continue
        if isinstance(value, dict):
            label = _label(value, names) if "name" in value else _concerns(value, names)
            words.append(label if "ports" in value else f"{name} {label}")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            words.append(f"{name} {', '.join(_label(item, names) for item in value)}")
        elif _is_plain(value):
            words.append(f"{name} {text(value)}")
    return "; ".join(words)


def _label(value: Any, names: Document) -> str:
    """Name a nested object as people do: a VM, or its port, by its name, a tunnel by its end."""
    if not isinstance(value, dict):
        return text(value)
    if value.get("vm") is not None:
        return text(names.get(value["vm"]) or value.get("name") or value["vm"])
    if value.get("remote_ip") is not None:
        return f"tunnel to {text(value['remote_ip'])}"
    return text(value.get("name") or value.get("id"))
