"""Where a switch's guard takes its flows."""

import pytest

from ccfd.errors import Refused
from ccfd.network import openflow


@pytest.mark.parametrize(
    ("given", "ovsdb", "written", "listener"),
    [
        (None, "unix:/run/ovs/db.sock", "unix:/run/ovs/ccf-guard.mgmt", ""),
        (None, "tcp:192.0.2.9:6640", "tcp:192.0.2.9:6653", "ptcp:6653:192.0.2.9"),
        (None, "ssl:[2001:db8::9]:6640", "ssl:[2001:db8::9]:6653", "pssl:6653:[2001:db8::9]"),
        (None, "ssl:h1.example:6640", "ssl:192.0.2.1:6653", "pssl:6653:192.0.2.1"),
        ("ssl:192.0.2.7:6700", "ssl:h1:6640", "ssl:192.0.2.7:6700", "pssl:6700:192.0.2.7"),
        ("unix:/elsewhere/x.mgmt", "tcp:192.0.2.9:6640", "unix:/elsewhere/x.mgmt", ""),
    ],
)
def test_it_is_beside_the_database_unless_the_settings_know(
    given: str | None, ovsdb: str, written: str, listener: str
) -> None:
    place = openflow.endpoint(given, ovsdb, "192.0.2.1")
    assert openflow.written(place) == written
    assert openflow.listener(place) == listener


@pytest.mark.parametrize("given", ["", "ssl:h1.example:6653", "http://192.0.2.1"])
def test_a_name_or_nonsense_is_refused(given: str) -> None:
    with pytest.raises(Refused, match=r"OpenFlow|not at a name"):
        openflow.endpoint(given, "unix:/run/db.sock", "192.0.2.1")
