"""A slice's key pair fits together, and only who has the secret can read its private half."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_private_key,
)

from ccfd.errors import Refused
from ccfd.vt.ssh_keys import SshKeys

OLD, NEW = b"correct horse battery staple", bytes(range(200, 232))


def public_of(private: str) -> str:
    key = load_ssh_private_key(private.encode(), None)
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def test_the_halves_fit_together_and_the_public_one_names_its_slice() -> None:
    keys = SshKeys([OLD])
    pair = keys.make("demo")
    assert pair is not None
    private = keys.open(pair.sealed)
    assert private.startswith("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    assert pair.public == f"{public_of(private)} ccf-demo"
    assert pair.public.startswith("ssh-ed25519 ")
    assert private not in pair.sealed


def test_every_slice_has_another_key_and_chance_can_be_said() -> None:
    keys = SshKeys([OLD])
    assert keys.make("demo") != keys.make("demo")
    known = Ed25519PrivateKey.from_private_bytes(bytes(32))
    one, other = (SshKeys([OLD], generate=lambda: known).make("demo") for _ in range(2))
    assert one is not None
    assert other is not None
    assert one.public == other.public


def test_after_a_change_of_the_secret_the_former_line_opens_what_it_sealed() -> None:
    pair = SshKeys([OLD]).make("demo")
    both = SshKeys([NEW, OLD])
    later = both.make("demo")
    assert pair is not None
    assert later is not None
    assert "PRIVATE" in both.open(pair.sealed)
    assert "PRIVATE" in SshKeys([NEW]).open(later.sealed)
    with pytest.raises(Refused, match="another secret: put that one back"):
        SshKeys([NEW]).open(pair.sealed)


def test_a_restart_with_the_same_secret_opens() -> None:
    pair = SshKeys([NEW]).make("demo")
    assert pair is not None
    assert "PRIVATE" in SshKeys([NEW]).open(pair.sealed)


def test_without_a_secret_no_pair_is_made_and_none_is_opened() -> None:
    keys = SshKeys([])
    assert not keys.are_made
    assert keys.make("demo") is None
    with pytest.raises(Refused, match="ssh_key_secret_file") as refused:
        keys.open("anything")
    assert refused.value.code == "invalid_state"


def test_what_was_spoilt_in_the_database_is_told_as_such() -> None:
    with pytest.raises(Refused, match="another secret"):
        SshKeys([OLD]).open("gAAAAAB-spoilt")
