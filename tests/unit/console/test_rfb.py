"""Both sides of a VNC handshake, and what of a viewer's messages passes: pure."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccfd.console.rfb import Conversation, RfbError, StartTls, with_browser, with_vm
from ccfd.console.view_only import ViewOnly

HELLO = b"RFB 003.008\n"
VM = HELLO + b"\x02\x02\x01" + bytes(4)
TLS = HELLO + b"\x01\x13" + b"\x00\x02" + b"\x00" + struct.pack("!BI", 1, 260) + b"\x01"

KEY = bytes((4, 1, 0, 0, 0, 0, 0, 65))
POINTER = bytes((5, 1, 0, 0, 0, 0))
CUT = bytes((6, 0, 0, 0)) + struct.pack("!i", 3) + b"abc"
EXTENDED_CUT = bytes((6, 0, 0, 0)) + struct.pack("!i", -4) + b"abcd"
FORMAT = bytes(20)
ENCODINGS = bytes((2, 0)) + struct.pack("!H2i", 2, 0, -239)
UPDATE = bytes((3, 1)) + bytes(8)
FENCE = bytes((248, 0, 0, 0, 0, 0, 0, 0, 2)) + b"xy"
SIZE = bytes((251, 0, 0, 9, 0, 9, 1, 0)) + bytes(16)
QEMU_KEY = bytes((255, 0)) + bytes(10)
AUDIO = bytes((255, 1, 0, 2)) + bytes(6)
LOOKS = (FORMAT, ENCODINGS, UPDATE, FENCE)
ACTS = (KEY, POINTER, CUT, EXTENDED_CUT, SIZE, QEMU_KEY, AUDIO)


def said(talk: Conversation, *parts: bytes) -> list[bytes | StartTls]:
    words = talk.begin()
    for part in parts:
        words += talk.hear(part)
    return words


def each(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def test_a_vm_without_a_password_is_agreed_with_byte_by_byte() -> None:
    talk = Conversation(with_vm(tls=False))
    assert said(talk, *each(VM)) == [HELLO, b"\x01"]
    assert talk.done


def test_a_vm_with_certificates_is_agreed_with() -> None:
    talk = Conversation(with_vm(tls=True))
    words = said(talk, *each(TLS))
    assert words == [HELLO, b"\x13", b"\x00\x02", struct.pack("!I", 260), StartTls()]
    assert talk.hear(bytes(4)) == []
    assert talk.done


def test_a_browser_is_offered_no_security_and_always_shares() -> None:
    talk = Conversation(with_browser())
    assert said(talk, *each(HELLO + b"\x01" + b"\x00")) == [HELLO, b"\x01\x01", bytes(4)]
    assert talk.done


@pytest.mark.parametrize(
    ("tls", "speech"),
    [
        (False, b"HTTP/1.1 200 OK\r\n"),
        (False, b"RFB 003.003\n"),
        (False, HELLO + b"\x01\x02"),
        (False, HELLO + b"\x00" + struct.pack("!I", 4) + b"busy"),
        (False, HELLO + b"\x00" + struct.pack("!I", 1 << 31)),
        (False, HELLO + b"\x01\x01" + struct.pack("!2I", 1, 3) + b"no!"),
        (False, VM + b"more"),
        (True, VM),
        (True, HELLO + b"\x01\x13" + b"\x00\x01"),
        (True, HELLO + b"\x01\x13" + b"\x00\x02" + b"\x01"),
        (True, HELLO + b"\x01\x13" + b"\x00\x02" + b"\x00\x00"),
        (True, HELLO + b"\x01\x13" + b"\x00\x02" + b"\x00" + struct.pack("!BI", 1, 261)),
        (True, TLS[:-1] + b"\x00"),
        (True, TLS + b"plain"),
    ],
)
def test_a_vm_that_says_anything_else_is_refused(tls: bool, speech: bytes) -> None:
    with pytest.raises(RfbError):
        said(Conversation(with_vm(tls=tls)), speech)


@pytest.mark.parametrize("speech", [b"GET / HTTP/1", HELLO + b"\x02", HELLO + b"\x01\x01more"])
def test_a_browser_that_says_anything_else_is_refused(speech: bytes) -> None:
    with pytest.raises(RfbError):
        said(Conversation(with_browser()), speech)


@given(st.binary(max_size=200), st.booleans())
def test_no_garbage_does_more_than_be_refused(speech: bytes, tls: bool) -> None:
    for talk in (Conversation(with_vm(tls=tls)), Conversation(with_browser())):
        try:
            said(talk, *each(speech))
        except RfbError:
            continue
        assert len(speech) < 64


@given(st.lists(st.sampled_from(LOOKS + ACTS)), st.integers(1, 9))
def test_who_may_only_look_is_heard_however_it_is_cut(messages: list[bytes], size: int) -> None:
    whole = b"".join(messages)
    only = ViewOnly()
    parts = [only.pass_on(whole[at : at + size]) for at in range(0, len(whole), size)]
    assert b"".join(parts) == b"".join(one for one in messages if one in LOOKS)


@pytest.mark.parametrize("message", [b"\x07", b"\xfe" * 8])
def test_what_no_viewer_sends_is_refused(message: bytes) -> None:
    with pytest.raises(RfbError):
        ViewOnly().pass_on(message)


def test_a_clipboard_without_end_is_refused() -> None:
    with pytest.raises(RfbError):
        ViewOnly().pass_on(bytes((6, 0, 0, 0)) + struct.pack("!i", 1 << 30))
