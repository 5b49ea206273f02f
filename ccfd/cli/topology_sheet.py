"""What a slice's topology looks like to people: a tree of its switches and their ports. Pure."""

from ccfd.cli.sheets import Block, Document, Facts, Sheet, text

COLUMNS = ("", "state", "receives", "sends", "received", "sent", "drops")
_UNITS = ("B", "kB", "MB", "GB", "TB")


def topology(document: Document) -> list[Block]:
    """Describe a topology; both ways are those of whoever is behind a port."""
    head = (("slice", text(document["slice"])), ("vni", text(document["vni"])))
    rows: list[tuple[str, ...]] = []
    for switch in document["switches"]:
        rows.append(_switch(switch, document))
        links = [_link(link, switch["host"], document) for link in document["links"]]
        under = [link for link in links if link is not None]
        for number, (label, *cells) in enumerate(under, 1):
            rows.append((f"{'└─' if number == len(under) else '├─'} {label}", *cells))
    return [Facts(head), Sheet("", COLUMNS, tuple(rows))]


def _switch(switch: Document, document: Document) -> tuple[str, ...]:
    bridge = next((one for one in document["bridges"] if one["host"] == switch["host"]), None)
    label = text(switch["host"])
    if not switch["heard"]:
        label += f": not heard, {text(switch['problem'])}"
    elif bridge is None:
        label += ": no bridge"
    else:
        label += f": {text(bridge['bridge'])}"
        for one in bridge["controllers"]:
            label += f", {text(one['target'])} {'connected' if one['connected'] else 'away'}"
    return (label, *[""] * (len(COLUMNS) - 1))


def _link(link: Document, host: str, document: Document) -> tuple[str, ...] | None:
    """Describe a link by its end at *host*, if it has one there."""
    ends = [link["from"], link["to"]]
    near = next((end for end in ends if end.get("host") == host and "port" in end), None)
    if near is None:
        return None
    far = ends[1] if near is ends[0] else ends[0]
    port: Document = next(
        (one for one in document["ports"] if one["host"] == host and one["port"] == near["port"]),
        {},
    )
    return (_label(link["kind"], far, document), text(link["state"]), *_counts(port))


def _label(kind: str, far: Document, document: Document) -> str:
    if kind == "tunnel":
        return f"tunnel to {text(far['host'])}"
    if kind == "vm":
        vm: Document = next((one for one in document["vms"] if one["vm"] == far["vm"]), {})
        return f"{text(far['name'])} {text(vm.get('ip'))} ({text(vm.get('state'))})"
    return f"{kind} {text(far.get('namespace'))}"


def _counts(port: Document) -> tuple[str, ...]:
    ways = [port.get(way) or {} for way in ("receive", "transmit")]
    drops = [way["drops"] for way in ways if way.get("drops") is not None]
    return (
        *(_size(way.get("bytes_per_second"), "/s") for way in ways),
        *(_size(way.get("bytes")) for way in ways),
        text(sum(drops)) if drops else "-",
    )


def _size(count: float | None, per: str = "") -> str:
    """Write a number of bytes with three digits or four: `1.21 MB`."""
    if count is None:
        return "-"
    unit = 0
    while count >= 999.5 and unit < len(_UNITS) - 1:
        count, unit = count / 1000, unit + 1
    digits = 0 if unit == 0 or count >= 99.95 else 1 if count >= 9.995 else 2
    return f"{count:.{digits}f} {_UNITS[unit]}{per}"
