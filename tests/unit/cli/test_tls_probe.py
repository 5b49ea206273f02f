"""What `ccfd check` finds out about the certificates for screens."""

import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from ccfd.cli.tls_probe import screens
from ccfd.errors import Refused
from ccfd.settings import Host, Settings, Tls

DAY = datetime.timedelta(days=1)
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH


class Authority:
    """Makes certificates in a folder."""

    def __init__(self, folder: Path) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "CA")])
        self.path = folder / f"ca-{id(self)}.pem"
        self.path.write_bytes(self._signed(self._name, self._key, DAY, None))

    def _signed(
        self,
        name: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        left: datetime.timedelta,
        use: ObjectIdentifier | None,
    ) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder(
            issuer_name=self._name,
            subject_name=name,
            public_key=key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now - 2 * DAY,
            not_valid_after=now + left,
        ).add_extension(x509.BasicConstraints(ca=use is None, path_length=None), critical=True)
        if use is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        signed = builder.sign(self._key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)

    def issue(
        self, left: datetime.timedelta = DAY, use: ObjectIdentifier = CLIENT
    ) -> tuple[str, str]:
        """Make a certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ccfd")])
        cert = self.path.with_name(f"{x509.random_serial_number()}.pem")
        cert.write_bytes(self._signed(name, key, left, use))
        secret = cert.with_suffix(".key")
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return str(cert), str(secret)


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def settings(ca: Path | str, cert: str, key: str) -> Settings:
    hosts = (
        Host(name="h1", tunnel_ip="192.0.2.1", vnc="tls", libvirt="qemu+tls://192.0.2.1/system"),
        Host(name="h2", tunnel_ip="192.0.2.2"),
    )
    return Settings(host=hosts, tls=Tls(ca=str(ca), cert=cert, key=key))


async def test_files_that_fit_together_are_named_with_the_hosts(ours: Authority) -> None:
    cert, key = ours.issue()
    told = await screens(settings(ours.path, cert, key))
    assert told == f"{cert} is good for the screens of h1"


async def test_what_is_not_good_is_told_with_what_to_do(ours: Authority, tmp_path: Path) -> None:
    cert, key = ours.issue()
    for wrong, why in (
        (settings(Authority(tmp_path).path, cert, key), "lets in"),
        (settings(ours.path, *ours.issue(left=-DAY)), "expired"),
        (settings(ours.path, *ours.issue(use=SERVER)), "purpose"),
        (settings(ours.path, cert, ours.issue()[1]), "cannot be used"),
        (settings(tmp_path / "none.pem", cert, key), "cannot be used"),
        (settings(ours.path, cert, key).model_copy(update={"tls": Tls()}), "needs ca"),
    ):
        with pytest.raises(Refused, match=why):
            await screens(wrong)
