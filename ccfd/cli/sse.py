"""Takes a stream of server-sent events apart (WHATWG HTML, "Server-sent events").

Pure: bytes in, events out. Only what ccfd sends: `id`, `event`, `data`, comments.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Message:
    """One event: its id (None where it has none of its own), its name, its text."""

    id: str | None
    name: str
    data: str


@dataclass(slots=True)
class Parser:
    """Collects bytes until they make whole events."""

    _rest: bytes = b""
    _id: str | None = None
    _name: str = ""
    _data: list[str] = field(default_factory=list)

    def feed(self, chunk: bytes) -> list[Message]:
        """Take some bytes; return the events that they complete."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        found = []
        for line in lines:
            message = self._line(line.removesuffix(b"\r").decode(errors="replace"))
            if message is not None:
                found.append(message)
        return found

    def _line(self, line: str) -> Message | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "id":
                self._id = value
            case "event":
                self._name = value
            case "data":
                self._data.append(value)
            case _:  # a comment has an empty name; other fields are not ours
                pass
        return None

    def _dispatch(self) -> Message | None:
        data, name, identity = self._data, self._name, self._id
        self._data, self._name, self._id = [], "", None
        return Message(identity, name or "message", "\n".join(data)) if data else None
