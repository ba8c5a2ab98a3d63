"""An authority for tests: certificates of brokers and clients, made when they are asked for."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_DAY = datetime.timedelta(days=1)


class Authority:
    """Signs what it is asked for. `certificate`: its own, as a PEM file."""

    def __init__(self, folder: Path, name: str = "authority of the tests") -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        made = (
            _builder(self._name, self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.certificate = folder / "ca.pem"
        self.certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str) -> tuple[Path, Path]:
        """Certificate and key of this common name, as PEM files; it is for 127.0.0.1 and localhost as well."""
        certificate, key = self._make(name)
        paths = self.folder / f"{name}.pem", self.folder / f"{name}-key.pem"
        paths[0].write_bytes(certificate)
        paths[1].write_bytes(key)
        return paths

    def bundle(self, name: str, path: Path) -> None:
        """Key and certificate in one PEM file, as a broker's key store."""
        certificate, key = self._make(name)
        path.write_bytes(key + certificate)

    def _make(self, name: str) -> tuple[bytes, bytes]:
        key = ec.generate_private_key(ec.SECP256R1())
        here = x509.SubjectAlternativeName(
            [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        )
        made = (
            _builder(_named(name), self._name, key.public_key())
            .add_extension(here, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        return made.public_bytes(pem), key.private_bytes(pem, pkcs8, serialization.NoEncryption())


def _named(name: str) -> x509.Name:
    """From the general to the particular, as authorities do: a broker reads it as CN=...,O=bank."""
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "bank"), x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
        .serial_number(x509.random_serial_number()).not_valid_before(now - _DAY).not_valid_after(now + 30 * _DAY)
    )  # fmt: skip
