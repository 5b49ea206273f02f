"""How a VNC session begins (RFC 6143, 7.1 to 7.3): both of its sides, as pure conversations.

ccfd ends the VM's session with whatever security it wants, and begins another with the browser,
which knows of none. What comes after ClientInit is passed on as it is.
"""

import re
import struct
from collections.abc import Generator
from dataclasses import dataclass, field

VERSION = b"RFB 003.008\n"
NONE = 1
VENCRYPT = 19
X509_NONE = 260
"""VeNCrypt's subtype: TLS with certificates, and no password within
(https://github.com/rfbproto/rfbproto/blob/master/rfbproto.rst#vencrypt)."""
SHARED = b"\x01"
"""ClientInit: the screen is shared with whoever else looks at it."""
MOST_WORDS = 1024
"""Bytes that a server may use to say why it refuses."""


class RfbError(Exception):
    """The other side says what is no RFB, or refuses."""


@dataclass(frozen=True, slots=True)
class StartTls:
    """From here on the connection speaks TLS."""


Asked = int | bytes | StartTls
Talk = Generator[Asked, bytes, None]
"""Yields how many bytes it wants to hear, what it says, or that TLS begins; is sent what it heard
(nothing after the latter two)."""


@dataclass(slots=True)
class Conversation:
    """One side of a handshake, to be fed with what arrives."""

    talk: Talk
    done: bool = False
    _wants: int = 0
    _heard: bytearray = field(default_factory=bytearray)

    def begin(self) -> list[bytes | StartTls]:
        """Return what is to be said before anything was heard."""
        return self._go_on(None)

    def hear(self, data: bytes) -> list[bytes | StartTls]:
        """Take *data*; return what is to be said, in order. Raises `RfbError`.

        Nobody may talk ahead: what comes after the end, or before TLS begins, is an error.
        """
        self._heard += data
        said: list[bytes | StartTls] = []
        while not self.done and self._wants and len(self._heard) >= self._wants:
            heard = bytes(self._heard[: self._wants])
            del self._heard[: self._wants]
            said += self._go_on(heard)
        if self._heard and (self.done or (said and isinstance(said[-1], StartTls))):
            raise RfbError("it talks before its turn")
        return said

    def _go_on(self, heard: bytes | None) -> list[bytes | StartTls]:
        said: list[bytes | StartTls] = []
        try:
            asked = next(self.talk) if heard is None else self.talk.send(heard)
            while not isinstance(asked, int):
                said.append(asked)
                asked = next(self.talk)
            self._wants = asked
        except StopIteration:
            self.done = True
        return said


def with_browser() -> Talk:
    """Play a server that wants no password; end with the browser's ClientInit."""
    yield VERSION
    if (yield len(VERSION)) != VERSION:
        raise RfbError("it does not speak RFB 3.8")
    yield bytes((1, NONE))
    if (yield 1)[0] != NONE:
        raise RfbError("it chose a security type that was not offered")
    yield struct.pack("!I", 0)
    yield 1


def with_vm(*, tls: bool) -> Talk:
    """Play a viewer up to the server's SecurityResult; with *tls* nothing less will do."""
    version = yield len(VERSION)
    if not re.fullmatch(rb"RFB 00[3-9]\.\d{3}\n", version) or version < VERSION:
        raise RfbError("it does not speak RFB 3.8")
    yield VERSION
    number = (yield 1)[0]
    if number == 0:
        yield from _refusal()
    offered = yield number
    wanted = VENCRYPT if tls else NONE
    if wanted not in offered:
        raise RfbError(
            f"it offers the security types {', '.join(map(str, offered))} and not {wanted}"
        )
    yield bytes((wanted,))
    if tls:
        yield from _vencrypt()
    if (yield 4) != bytes(4):
        yield from _refusal()


def _refusal() -> Talk:
    (length,) = struct.unpack("!I", (yield 4))
    if length > MOST_WORDS:
        raise RfbError("it refuses")
    words = (yield length) if length else b""
    raise RfbError(f"it refuses: {words.decode('utf-8', 'replace')!r}")


def _vencrypt() -> Talk:
    if (yield 2) < b"\x00\x02":
        raise RfbError("its VeNCrypt is older than 0.2")
    yield b"\x00\x02"
    if (yield 1) != b"\x00":
        raise RfbError("it refuses VeNCrypt 0.2")
    number = (yield 1)[0]
    subtypes = struct.unpack(f"!{number}I", (yield 4 * number) if number else b"")
    if X509_NONE not in subtypes:
        raise RfbError("it does not offer TLS with certificates and no password")
    yield struct.pack("!I", X509_NONE)
    if (yield 1) != b"\x01":
        raise RfbError("it refuses TLS with certificates")
    yield StartTls()
