"""How a slice gets an SSH key pair of its own, and who can read the private half afterwards.

The private half is sealed before it goes anywhere: by Fernet (https://github.com/fernet/spec:
AES-128-CBC with HMAC-SHA256), under a key that HKDF (RFC 5869) derives from a secret of the
settings. HKDF makes a key of a secret of any form, and does nothing for one that can be guessed.
"""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from ccfd.errors import Refused

# Part of what is stored: another text derives another key, which opens nothing.
_PURPOSE = b"ccfd: SSH keys of slices"


@dataclass(frozen=True, slots=True)
class KeyPair:
    """`public` is a line of `authorized_keys`; `sealed` is the private half, for the database."""

    public: str
    sealed: str


class SshKeys:
    """Makes key pairs and opens their private halves.

    The first of *secrets* seals, each of them opens; without any no pair is made.
    """

    def __init__(
        self,
        secrets: Sequence[bytes],
        generate: Callable[[], Ed25519PrivateKey] = Ed25519PrivateKey.generate,
    ) -> None:
        self._generate = generate
        self._seals = MultiFernet([_seal(secret) for secret in secrets]) if secrets else None

    @property
    def are_made(self) -> bool:
        """Tell whether there is a secret to seal with."""
        return self._seals is not None

    def make(self, slice_name: str) -> KeyPair | None:
        """Make a pair for a slice; None where there is no secret to seal it with."""
        if self._seals is None:
            return None
        key = self._generate()
        public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        return KeyPair(f"{public.decode()} ccf-{slice_name}", self._seals.encrypt(private).decode())

    def open(self, sealed: str) -> str:
        """Return the private half, in OpenSSH's format; raise `Refused` (`invalid_state`)."""
        if self._seals is None:
            raise Refused(
                "invalid_state",
                "it is sealed, and no secret is set: set [slices] ssh_key_secret_file as it was",
            )
        try:
            return self._seals.decrypt(sealed).decode()
        except InvalidToken as exc:
            raise Refused(
                "invalid_state",
                "it was sealed with another secret: put that one back, as a further line of"
                " [slices] ssh_key_secret_file",
            ) from exc


def _seal(secret: bytes) -> Fernet:
    key = HKDF(algorithm=SHA256(), length=32, salt=None, info=_PURPOSE).derive(secret)
    return Fernet(base64.urlsafe_b64encode(key))
