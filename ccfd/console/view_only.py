"""Which of a viewer's messages reach the VM when it may only look: pure.

Looking takes asking for pictures, and nothing else (RFC 6143, 7.5, and the registry of
https://github.com/rfbproto/rfbproto/blob/master/rfbproto.rst). Keys, pointer, clipboard, the
screen's size and the power buttons are dropped; a message that is not known ends the session,
since nobody knows where it ends.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from ccfd.console.rfb import RfbError

LONGEST = 1 << 24
"""Bytes that a message may have; QEMU takes a clipboard of 1 MiB."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A message: bytes up to the field that tells its length, what follows, whether it passes."""

    head: int
    passes: bool
    rest: Callable[[bytes], int] = lambda _head: 0


def _encodings(head: bytes) -> int:
    (number,) = struct.unpack_from("!H", head, 2)
    return 4 * int(number)


def _cut_text(head: bytes) -> int:
    # A negative length announces the extended clipboard.
    (length,) = struct.unpack_from("!i", head, 4)
    return abs(int(length))


def _qemu(head: bytes) -> int:
    if head[1] == 0:  # a key, with its scan code
        return 8
    (operation,) = struct.unpack_from("!H", head, 2)  # audio; 2 sets its format
    return 6 if operation == 2 else 0


# The pointer with more buttons (7 bytes) is for servers that announced it: QEMU does not.
SHAPES = {
    0: Shape(20, passes=True),  # SetPixelFormat
    2: Shape(4, passes=True, rest=_encodings),
    3: Shape(10, passes=True),  # FramebufferUpdateRequest
    4: Shape(8, passes=False),  # KeyEvent
    5: Shape(6, passes=False),  # PointerEvent
    6: Shape(8, passes=False, rest=_cut_text),
    150: Shape(10, passes=True),  # EnableContinuousUpdates
    248: Shape(9, passes=True, rest=lambda head: head[8]),  # ClientFence
    250: Shape(4, passes=False),  # xvp: power
    251: Shape(8, passes=False, rest=lambda head: 16 * head[6]),  # SetDesktopSize
    255: Shape(4, passes=False, rest=_qemu),
}


@dataclass(slots=True)
class ViewOnly:
    """A filter of one viewer's messages; it keeps at most a head between two calls."""

    _held: bytes = b""
    _left: int = 0
    _passes: bool = field(default=True)

    def pass_on(self, data: bytes) -> bytes:
        """Return what of *data* may reach the VM. Raises `RfbError`."""
        data, passed, at = self._held + data, bytearray(), 0
        self._held = b""
        while at < len(data):
            if self._left:
                body = data[at : at + self._left]
                self._left -= len(body)
            else:
                shape = SHAPES.get(data[at])
                if shape is None:
                    raise RfbError(f"a message of the unknown type {data[at]}")
                body = data[at : at + shape.head]
                if len(body) < shape.head:
                    self._held = body
                    break
                self._left, self._passes = shape.rest(body), shape.passes
                if self._left > LONGEST:
                    raise RfbError("a message that is too long")
            at += len(body)
            if self._passes:
                passed += body
        return bytes(passed)
