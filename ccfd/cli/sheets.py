"""What a document looks like to people: rows and facts, not yet drawn. Pure."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table: a title (may be empty), column headings, rows of texts."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """Names with values, one a line."""

    items: tuple[tuple[str, str], ...]


Block = Sheet | Facts
Column = tuple[str, Callable[[Document], Any]]


def text(value: Any) -> str:
    """Write a JSON value for people; control characters are shown, never sent to a terminal."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case list():
            apart = "; " if any(isinstance(item, dict) for item in value) else ", "
            return apart.join(text(item) for item in value) or "-"
        case dict():
            return ", ".join(f"{name} {text(item)}" for name, item in value.items()) or "-"
        case _:
            return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(value))


def time(value: str | None) -> str:
    """Write an RFC 3339 time to the second."""
    if not value:
        return "-"
    return f"{value[:19].replace('T', ' ')}Z" if value.endswith(("Z", "+00:00")) else value


def _of(name: str) -> Callable[[Document], Any]:
    return lambda document: document.get(name)


def _time(name: str) -> Callable[[Document], Any]:
    return lambda document: time(document.get(name))


def _start(name: str) -> Callable[[Document], Any]:
    """Show the start of what is longer than a UUID: a digest has up to 128 digits."""

    def cell(document: Document) -> str:
        value = text(document.get(name))
        return value if len(value) <= 36 else f"{value[:16]}…"

    return cell


def _usage(name: str) -> Callable[[Document], Any]:
    def cell(document: Document) -> str:
        value = document.get(name) or {}
        return f"{text(value.get('used'))}/{text(value.get('total'))}"

    return cell


def _plain(*names: str) -> tuple[Column, ...]:
    return tuple((name, _of(name)) for name in names)


COLUMNS: dict[str, tuple[Column, ...]] = {
    "slices": (
        *_plain("slice", "state", "subnet", "island"),
        ("vms", lambda document: len(document.get("vms") or ())),
        ("expires", _time("expires_at")),
        ("description", _of("description")),
    ),
    "dead": (*_plain("message_id", "type", "error", "detail"), ("buried", _time("buried_at"))),
    "consoles": (
        *_plain("console", "vm", "slice", "type", "view_only", "opened_by", "opened_from"),
        ("opened", _time("opened_at")),
    ),
    "vms": _plain("vm", "name", "slice", "state", "ip", "mac", "host", "flavor", "image"),
    "subnets": (
        *_plain("owner", "subnet", "cidr", "network", "state"),
        ("expires", _time("expires_at")),
    ),
    "workflows": (
        *_plain("request_id", "type", "key", "state"),
        ("received", _time("received_at")),
        ("ended", _time("ended_at")),
    ),
    "networks": (*_plain("cidr", "type", "island"), ("used", _usage("addresses"))),
    "hosts": (
        *_plain("host", "island", "state"),
        ("vCPUs", _usage("cpu")),
        ("RAM MiB", _usage("ram")),
        ("disk GiB", _usage("disk")),
        ("vms", _of("vms")),
    ),
    "flavors": (
        ("flavor", _of("flavor")),
        ("vCPUs", _of("cpu")),
        ("RAM MiB", _of("ram")),
        ("disk GiB", _of("disk")),
        ("Mbit/s", _of("bandwidth")),
    ),
    "images": (
        ("image", _of("image")),
        ("id", _start("id")),
        ("size", _of("size")),
        ("checksum", _start("checksum")),
        ("state", _of("state")),
    ),
}
VMS_OF_SLICE = _plain("name", "state", "ip", "mac", "host", "flavor", "image", "vm")
LEASES: tuple[Column, ...] = (
    *_plain("name", "ip", "mac"),
    ("renewed", _time("renewed_at")),
    ("expires", _time("expires_at")),
)


def sheet(title: str, columns: Iterable[Column], documents: Iterable[Document]) -> Sheet:
    """Make a table of documents."""
    columns = tuple(columns)
    return Sheet(
        title,
        tuple(heading for heading, _ in columns),
        tuple(tuple(text(cell(document)) for _, cell in columns) for document in documents),
    )


def listing(kind: str, documents: Iterable[Document]) -> list[Block]:
    """Describe a list of the API."""
    return [sheet("", COLUMNS[kind], documents)]


def facts(document: Document, *skipped: str) -> Facts:
    """Describe a document line by line; times are told from their names."""
    return Facts(
        tuple(
            (name, time(value) if name.endswith("_at") else text(value))
            for name, value in document.items()
            if name not in skipped
        )
    )


def slice_(document: Document) -> list[Block]:
    """Describe a slice, its VMs, and who holds a lease."""
    blocks: list[Block] = [facts(document, "vms", "leases")]
    if document.get("vms"):
        blocks.append(sheet("VMs", VMS_OF_SLICE, document["vms"]))
    if document.get("leases"):
        blocks.append(sheet("leases", LEASES, document["leases"]))
    return blocks


def request(document: Document) -> list[Block]:
    """Describe a request, its steps, and how it ended."""
    blocks: list[Block] = [facts(document, "steps", "result", "error")]
    steps = document.get("steps") or []
    if steps:
        columns: tuple[Column, ...] = (
            *_plain("name", "state", "attempts"),
            ("started", _time("started_at")),
            ("ended", _time("ended_at")),
            ("error", lambda step: (step.get("error") or {}).get("message")),
        )
        blocks.append(sheet("steps", columns, steps))
    if document.get("result") is not None:
        blocks += result(document["result"])
    return blocks + error(document.get("error"))


def history(document: Document) -> list[Block]:
    """Describe all that happened to something: each request, its steps, their calls to hosts."""
    blocks: list[Block] = []
    for item in document["items"]:
        blocks += request({**item, "message": (item.get("message") or {}).get("body")})
        calls = [
            {**call, "step": step["name"]}
            for step in item.get("steps") or []
            for call in step.get("calls") or []
        ]
        if calls:
            columns = _plain("step", "service", "where", "what", "seconds", "error")
            blocks.append(sheet("calls", columns, calls))
    return blocks


def result(document: Document) -> list[Block]:
    """Describe what a request resulted in."""
    return slice_(document) if "vms" in document else [facts(document)]


def details(error: Document) -> list[Block]:
    """Describe an error's details: why no host would do, as a table; else line by line."""
    found = dict(error.get("details") or {})
    blocks: list[Block] = []
    hosts = found.pop("hosts", None)
    filters = found.pop("filters", None)
    if found:
        blocks.append(facts(found))
    if isinstance(hosts, dict) and hosts:
        rows = tuple((text(name), text(reason)) for name, reason in hosts.items())
        blocks.append(Sheet("", ("host", "why not"), rows))
    elif hosts:
        blocks.append(Facts((("hosts", text(hosts)),)))
    if isinstance(filters, dict) and filters:
        rows = tuple((text(name), text(count)) for name, count in filters.items())
        blocks.append(Sheet("", ("filter", "hosts turned away"), rows))
    elif filters:
        blocks.append(Facts((("filters", text(filters)),)))
    return blocks


def event(name: str, body: Document) -> str:
    """Describe a result or notice of the event stream in one line."""
    when = time(body.get("time"))
    kind = text(body.get("type", name))
    about = text(body.get("slice") or body.get("owner") or body.get("host"))
    return f"{when}  {about}  {_said(name, kind, body)}"


def _said(name: str, kind: str, body: Document) -> str:
    match body.get("outcome"):
        case "progress":
            progress = body.get("progress") or {}
            step, status = text(progress.get("step")), text(progress.get("status"))
            return (
                f"{kind} {text(progress.get('index'))}/{text(progress.get('of'))} {step} {status}"
            )
        case "failed":
            error = body.get("error") or {}
            return f"{kind} failed: {text(error.get('code'))}: {text(error.get('message'))}"
        case None:
            passed = {"type", "time", "slice", "owner", "host", "message_id"}
            rest = {key: value for key, value in body.items() if key not in passed}
            return f"{text(name)} {text(rest) if rest else ''}".rstrip()
        case outcome:
            return f"{kind} {text(outcome)}"


def error(document: Document | None) -> list[Block]:
    """Describe an `error` object that a document carries."""
    if not document:
        return []
    said = f"{text(document.get('code'))}: {text(document.get('message'))}"
    return [Facts((("error", said),)), *details(document)]
