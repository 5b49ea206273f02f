import pytest
from pamqp import decode, encode
from pamqp.common import FieldTable

from ccfd.bus import tolerant
from ccfd.store.database import utc_now


def test_well_formed_values_are_read_as_before() -> None:
    now = utc_now().replace(microsecond=0)
    table: FieldTable = {"a": "b", "n": 1, "t": now}
    assert tolerant.short_string(b"\x02abc") == (3, "ab") == decode.short_str(b"\x02abc")
    assert tolerant.timestamp(encode.timestamp(now)) == (8, now)
    assert tolerant.field_table(encode.field_table(table))[1] == table


def test_bytes_that_are_not_text_are_written_out() -> None:
    assert tolerant.short_string(b"\x03a\xffb") == (4, r"a\xffb")


@pytest.mark.parametrize("raw", [b"\xff" * 8, b"\x7f" + b"\xff" * 7])
def test_a_moment_beyond_the_calendar_is_none(raw: bytes) -> None:
    assert tolerant.timestamp(raw) == (8, None)


@pytest.mark.parametrize("entry", [b"\x01\xffV", b"\x01aT" + b"\xff" * 8, b"\x01a?", b"\x05a"])
def test_headers_that_cannot_be_read_are_none_at_all(entry: bytes) -> None:
    raw = len(entry).to_bytes(4, "big") + entry
    assert tolerant.field_table(raw + b"more") == (len(raw), {})
