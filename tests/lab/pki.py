"""Who is trusted in the lab: a certificate authority, each host's certificate, and ccfd's?"""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.lab.layout import Layout

_LIFETIME = datetime.timedelta(days=3650)


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate and its key, both PEM."""

    cert: bytes
    key: bytes


class Authority:
    """A certificate authority that lives in memory: once the lab is up nobody needs its key."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("lab CA")
        usage = x509.KeyUsage(
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        self._cert = (
            _builder(self._name, self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )

    @property
    def cert(self) -> bytes:
        """Return the authority's certificate, PEM."""
        return self._cert.public_bytes(serialization.Encoding.PEM)

    def issue(self, name: str, address: str | None = None) -> Identity:
        """Make a certificate that is good as server (at *address*) and as client."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.DNSName(name)]
        if address is not None:
            names.append(x509.IPAddress(ipaddress.ip_address(address)))
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        cert = (
            _builder(_name(name), self._name, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        return Identity(
            cert=cert.public_bytes(serialization.Encoding.PEM),
            key=key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + _LIFETIME)
    )


def issue_all(layout: Layout) -> None:
    """Give the client its files in DIR/pki, each place with servers its own in DIR/<place>/pki."""
    authority = Authority()
    _put(
        layout.pki,
        {"cacert.pem": authority.cert},
        authority.issue("ccfd"),
        ("clientcert.pem", "clientkey.pem"),
    )
    for place in layout.switched:
        _put(
            layout.home(place) / "pki",
            {"cacert.pem": authority.cert},
            authority.issue(place, layout.management(place)),
            ("cert.pem", "key.pem"),
        )


def _put(folder: Path, files: dict[str, bytes], identity: Identity, names: tuple[str, str]) -> None:
    folder.mkdir(parents=True)
    cert, key = names
    for name, content in {**files, cert: identity.cert}.items():
        (folder / name).write_bytes(content)
    (folder / key).touch(mode=0o600)
    (folder / key).write_bytes(identity.key)
