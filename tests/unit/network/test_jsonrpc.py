"""Cutting a byte stream into messages."""

import json

import pytest

from ccfd.network.jsonrpc import BadStreamError, Framer, encode


def test_messages_are_cut_wherever_the_stream_is_split() -> None:
    sent = [{"id": 1, "result": ["ä€😀 }{"]}, {"id": 2, "method": "echo", "params": []}]
    stream = b" \n".join(json.dumps(one, ensure_ascii=False).encode() for one in sent)
    for size in (1, 2, 3, 5, 7, len(stream)):
        framer = Framer()
        got = [m for at in range(0, len(stream), size) for m in framer.feed(stream[at : at + size])]
        assert got == sent


def test_a_message_too_long_ends_the_stream() -> None:
    with pytest.raises(BadStreamError, match="more than 10"):
        Framer(limit=10).feed(b'{"a": "xxxxxxxxxxxx')


@pytest.mark.parametrize("stream", [b"HTTP/1.1 400 }", b"\xff\xfe", b"[1]{}"])
def test_what_is_no_json_object_ends_the_stream(stream: bytes) -> None:
    with pytest.raises(BadStreamError):
        Framer().feed(stream)


def test_what_is_sent_is_ascii_json_without_spaces() -> None:
    assert encode({"id": 1, "params": ["ä"]}) == b'{"id":1,"params":["\\u00e4"]}'
