"""How is a message read whose properties the library cannot decode?

AMQP 0-9-1 lets anybody send a `message_id` that is not UTF-8 or a `timestamp` in the year 50000;
the broker passes both on. pamqp raises, aiormq gives up the connection, and the broker delivers
the same message again: one such message would keep ccfd from consuming for ever. Decoded
tolerantly, it is an ordinary message that is answered or buried like any other.
"""

import struct
from typing import Any

from pamqp import decode

Decoded = tuple[int, Any]

_field_table = decode.field_table
_timestamp = decode.timestamp
_UNREADABLE = (ValueError, OverflowError, OSError, RecursionError, struct.error)


def short_string(value: bytes) -> Decoded:
    r"""Read a short string; bytes that are not UTF-8 become `\\xff` and so on."""
    end = 1 + value[0]
    return end, value[1:end].decode("utf-8", "backslashreplace")


def timestamp(value: bytes) -> Decoded:
    """Read a moment; None where no calendar holds it."""
    try:
        return _timestamp(value)
    except _UNREADABLE:
        return 8, None


def field_table(value: bytes) -> Decoded:
    """Read headers; none at all where one of them cannot be read."""
    try:
        return _field_table(value)
    except _UNREADABLE:
        length: int = struct.unpack(">I", value[:4])[0]
        return 4 + length, {}


def install() -> None:
    """Make pamqp decode so, in this process. A repeat changes nothing."""
    decode.METHODS["shortstr"] = short_string
    decode.METHODS["timestamp"] = timestamp
    decode.METHODS["table"] = field_table
