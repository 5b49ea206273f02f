"""Addresses of databases, and trust."""

from pathlib import Path

import pytest

from ccfd.errors import Refused
from ccfd.network.endpoints import Endpoint, Tcp, Unix, parse, tls_context
from ccfd.settings import Tls


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("unix:/run/db.sock", Unix("/run/db.sock")),
        ("tcp:192.0.2.1:6640", Tcp("192.0.2.1", 6640, tls=False)),
        ("ssl:h1.example:6641", Tcp("h1.example", 6641, tls=True)),
        ("ssl:[2001:db8::1]:6641", Tcp("2001:db8::1", 6641, tls=True)),
    ],
)
def test_an_address_is_read(text: str, endpoint: Endpoint) -> None:
    assert parse(text) == endpoint


@pytest.mark.parametrize("text", ["", "unix:", "tcp:host", "tcp::6640", "http://x:1", "ssl:h:x"])
def test_another_address_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="no OVSDB address"):
        parse(text)


def test_tls_without_certificates_is_refused_with_the_section_to_fill(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"\[tls\] section"):
        tls_context(Tls())
    missing = str(tmp_path / "none")
    with pytest.raises(Refused, match="cannot be used"):
        tls_context(Tls(ca=missing, cert=missing, key=missing))
