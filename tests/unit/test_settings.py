"""Secrets come from files too, whatever is in them, and are never shown."""

from pathlib import Path

import pytest

from ccfd import settings
from ccfd.errors import Refused
from ccfd.settings import Settings

RANDOM = bytes.fromhex("0aff00208d0a41fe7a0d0a1b9900c3280a1122334455667788991020304050ff")


def load(tmp_path: Path, text: str, **environment: str) -> Settings:
    path = tmp_path / "ccfd.toml"
    path.write_text(text)
    return settings.load(path, environment)


def secrets(tmp_path: Path, content: bytes) -> tuple[bytes, ...]:
    (tmp_path / "secret").write_bytes(content)
    text = f'[slices]\nssh_key_secret_file = "{tmp_path}/secret"\n'
    return load(tmp_path, text).slices.ssh_key_secrets


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"0123456789abcdef\n", (b"0123456789abcdef",)),
        (
            b"a new secret, first\r\n\n  the one before it \n",
            (b"a new secret, first", b"the one before it"),
        ),
        (RANDOM, (RANDOM,)),
    ],
)
def test_a_secret_may_be_lines_of_text_or_any_bytes(
    tmp_path: Path, content: bytes, found: tuple[bytes, ...]
) -> None:
    assert secrets(tmp_path, content) == found


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"short\n", b"long enough to be one\nshort\n", RANDOM[:7]]
)
def test_a_secret_that_can_be_guessed_is_refused_and_not_told(
    tmp_path: Path, content: bytes
) -> None:
    with pytest.raises(Refused, match=r"slices\.ssh_key_secret: .*openssl rand") as refused:
        secrets(tmp_path, content)
    assert "short" not in refused.value.message


def test_a_secret_may_stand_in_the_settings_or_in_the_environment(tmp_path: Path) -> None:
    text = '[slices]\nssh_key_secret = "sixteen or more bytes"\n'
    loaded = load(tmp_path, text)
    assert loaded.slices.ssh_key_secrets == (b"sixteen or more bytes",)
    assert "sixteen" not in repr(loaded)
    other = load(tmp_path, text, CCFD_SLICES__SSH_KEY_SECRET="and another, no less")
    assert other.slices.ssh_key_secrets == (b"and another, no less",)
    assert load(tmp_path, "").slices.ssh_key_secrets == ()
    (tmp_path / "secret").write_text("in a file, where it belongs\n")
    named = load(tmp_path, text, CCFD_SLICES__SSH_KEY_SECRET_FILE=f"{tmp_path}/secret")
    assert named.slices.ssh_key_secrets == (b"in a file, where it belongs",)
    text = f'[slices]\nssh_key_secret_file = "{tmp_path}/secret"\n'
    other = load(tmp_path, text, CCFD_SLICES__SSH_KEY_SECRET="and another, no less")
    assert other.slices.ssh_key_secrets == (b"and another, no less",)


def test_what_must_be_text_is_refused_where_its_file_is_none(tmp_path: Path) -> None:
    (tmp_path / "url").write_bytes(RANDOM)
    with pytest.raises(Refused, match=r"broker\.url: "):
        load(tmp_path, f'[broker]\nurl_file = "{tmp_path}/url"\n')
    (tmp_path / "url").write_text("amqp://there/\n")
    assert load(tmp_path, f'[broker]\nurl_file = "{tmp_path}/url"\n').broker.url == "amqp://there/"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"slices\.ssh_key_secret_file: cannot read /nowhere"):
        load(tmp_path, '[slices]\nssh_key_secret_file = "/nowhere"\n')
