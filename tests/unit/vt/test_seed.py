"""The seed is what cloud-init looks for, and the same bytes every time."""

import io
import time

import pycdlib
import pytest
from pycdlib.pycdlibexception import PyCdlibInvalidInput

from ccfd.errors import Refused
from ccfd.model.vm import Link
from ccfd.vt import seed

KEYS = ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI me@here", "ssh-rsa AAAAB3 you")


def contents(image: bytes, **where: str) -> bytes:
    iso = pycdlib.PyCdlib()
    iso.open_fp(io.BytesIO(image))
    out = io.BytesIO()
    iso.get_file_from_iso_fp(out, **where)
    iso.close()
    return out.getvalue()


@pytest.mark.parametrize("kind", ["joliet_path", "rr_path"])
def test_both_files_are_there_under_their_names(kind: str) -> None:
    image = seed.build("an-id", "web", KEYS)
    assert contents(image, **{kind: "/meta-data"}) == b"instance-id: an-id\nlocal-hostname: web\n"
    assert contents(image, **{kind: "/user-data"}) == (
        b"#cloud-config\nhostname: web\nssh_authorized_keys:\n"
        b"  - ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI me@here\n  - ssh-rsa AAAAB3 you\n"
    )


def test_a_link_with_a_fixed_address_is_told_it_and_others_ask_by_dhcp() -> None:
    link = Link(mac="02:00:ac:10:00:65", address="172.16.0.101/16", mtu=1450)
    image = seed.build("an-id", "pox", KEYS, link)
    assert contents(image, joliet_path="/network-config").decode() == (
        "version: 2\n"
        "ethernets:\n"
        "  eth0:\n"
        "    match: {macaddress: '02:00:ac:10:00:65'}\n"
        "    set-name: eth0\n"
        "    addresses: ['172.16.0.101/16']\n"
        "    mtu: 1450\n"
    )
    with pytest.raises(PyCdlibInvalidInput):
        contents(seed.build("an-id", "pox", KEYS), joliet_path="/network-config")


def test_its_label_is_cidata() -> None:
    # The volume identifier of the primary descriptor, ECMA-119 8.4.6.
    assert seed.build("an-id", "web", ())[32808:32814] == b"cidata"


def test_the_same_input_gives_the_same_bytes_at_any_time_and_in_any_zone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = seed.build("an-id", "web", KEYS)
    monkeypatch.setattr(time, "time", lambda: 2_000_000_000.0)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert seed.build("an-id", "web", KEYS) == first
    finally:
        monkeypatch.undo()
        time.tzset()


def test_other_input_gives_other_bytes() -> None:
    assert seed.build("an-id", "web", ()) != seed.build("another", "web", ())


def test_it_is_made_in_less_than_five_milliseconds() -> None:
    seed.build("an-id", "web", KEYS)
    spent = []
    for _ in range(20):
        # Of this process alone: what others take of the machine counts for nothing.
        started = time.process_time()
        seed.build("an-id", "web", KEYS)
        spent.append(time.process_time() - started)
    assert min(spent) < 0.005


def test_a_key_that_yaml_would_misread_is_quoted() -> None:
    told = seed.user_data("web", ("ssh-rsa AAAA a: b # c",))
    assert told.endswith('  - "ssh-rsa AAAA a: b # c"\n')


@pytest.mark.parametrize("key", ["ssh-rsa AAAA\nruncmd:", "", "  ", "ssh-rsa \x00"])
def test_a_key_of_more_than_one_line_is_refused(key: str) -> None:
    with pytest.raises(Refused) as refused:
        seed.user_data("web", (key,))
    assert refused.value.code == "invalid_message"


def test_without_keys_there_is_no_list_of_keys() -> None:
    assert seed.user_data("web", ()) == "#cloud-config\nhostname: web\n"
