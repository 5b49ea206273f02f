"""Cuts a byte stream into JSON-RPC messages, without any I/O.

OVSDB's messages follow each other with nothing between them (RFC 7047, section 4; JSON-RPC 1.0).
"""

import codecs
import json
from typing import Any

Message = dict[str, Any]


class BadStreamError(Exception):
    """What came is no JSON-RPC, or more than we are willing to hold."""


class Framer:
    """Collects bytes and gives back whole messages; holds at most *limit* characters."""

    def __init__(self, limit: int = 64 * 1024 * 1024) -> None:
        self._limit = limit
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._json = json.JSONDecoder()
        self._text = ""

    def feed(self, data: bytes) -> list[Message]:
        """Take *data* and return the messages that are complete now.

        A message ends in `}`: trying to decode only then keeps the work on a long message, which
        comes in many pieces, from growing with the square of its length. Nothing is held back by
        that, because what a quiet peer sent last always ends so.
        """
        try:
            fresh = self._utf8.decode(data)
        except UnicodeDecodeError as exc:
            raise BadStreamError(f"not UTF-8: {exc}") from exc
        self._text += fresh
        found: list[Message] = []
        if fresh.rstrip().endswith("}"):
            found = self._cut()
        if len(self._text) > self._limit:
            raise BadStreamError(f"a message of more than {self._limit} characters")
        return found

    def _cut(self) -> list[Message]:
        found: list[Message] = []
        at = 0
        while True:
            while at < len(self._text) and self._text[at] in " \t\r\n":
                at += 1
            if at == len(self._text):
                break
            if self._text[at] != "{":
                raise BadStreamError(f"expected a JSON object, got {self._text[at : at + 20]!r}")
            try:
                message, at = self._json.raw_decode(self._text, at)
            except ValueError:  # not all of it is here yet
                break
            found.append(message)
        self._text = self._text[at:]
        return found


def encode(message: Message) -> bytes:
    """Return *message* as it goes over the wire."""
    return json.dumps(message, separators=(",", ":")).encode()
