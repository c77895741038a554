"""Certificates of a job: one authority, one certificate a party, named by the party.

The trial authority is for runs on one machine and for first steps. In production the same three
files a party come from the organisations' own authority: ``ca.pem``, ``cert.pem`` (common name and
DNS name = the party's name in the job) and ``key.pem`` (mode 0600).
"""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from residue_federated.errors import CertificateError

__all__ = ["Identity", "TrialAuthority"]

_ONE_DAY = datetime.timedelta(days=1)


@dataclass(frozen=True, repr=False)
class Identity:
    """What a party proves itself with: paths of its key, its certificate and the authority's."""

    key: Path
    certificate: Path
    authority: Path

    @classmethod
    def load(cls, directory: Path, party: str) -> Identity:
        """The identity in `directory`, checked to be `party`'s.

        Raises `CertificateError` if a file is missing or unreadable, if the certificate names
        another party or another key, or if the key can be read by other users.
        """
        found = cls(directory / "key.pem", directory / "cert.pem", directory / "ca.pem")
        try:
            certificate = x509.load_pem_x509_certificate(found.certificate.read_bytes())
            key = serialization.load_pem_private_key(found.key.read_bytes(), password=None)
            x509.load_pem_x509_certificate(found.authority.read_bytes())
        except OSError as error:
            raise CertificateError(f"cannot read {error.filename}: {error.strerror}") from error
        except (ValueError, TypeError) as error:
            raise CertificateError(
                f"{directory}: key.pem, cert.pem and ca.pem must be unencrypted PEM files"
            ) from error
        names = [a.value for a in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        if names != [party]:
            raise CertificateError(f"{found.certificate} names {names}, not this party, '{party}'")
        if key.public_key() != certificate.public_key():
            raise CertificateError(f"{found.key} is not the key of {found.certificate}")
        if found.key.stat().st_mode & 0o077:
            raise CertificateError(f"{found.key} can be read by others: chmod 600 it")
        return found


class TrialAuthority:
    """A certificate authority made on the spot, valid for 30 days. Its key stays in memory."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = _name("residue trial authority")
        self._certificate = (
            _builder(name, name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs=False, certifies=True), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def issue(self, directory: Path, party: str) -> Identity:
        """Write a new key and certificate for `party` into `directory`, which is made if needed.

        Raises `CertificateError` if there is a key already.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = (
            _builder(_name(party), self._certificate.subject, key.public_key())
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(party)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=True, certifies=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        secret = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        try:
            handle = os.open(directory / "key.pem", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError as error:
            raise CertificateError(f"{directory} has a key already: remove it first") from error
        with os.fdopen(handle, "wb") as file:
            file.write(secret)
        pem = serialization.Encoding.PEM
        (directory / "cert.pem").write_bytes(certificate.public_bytes(pem))
        (directory / "ca.pem").write_bytes(self._certificate.public_bytes(pem))
        return Identity.load(directory, party)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _ONE_DAY)
        .not_valid_after(now + 30 * _ONE_DAY)
    )


def _usage(*, signs: bool, certifies: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=signs,
        key_cert_sign=certifies,
        crl_sign=certifies,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
