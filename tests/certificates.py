"""Certificates for tests, made anew by each process: by an authority that tests trust, and by one that none trusts."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

AUTHORITY = trustme.CA(organization_name="test authority")
STRANGER = trustme.CA(organization_name="nobody's authority")

CA = AUTHORITY.cert_pem.bytes().decode()
STRANGERS_CA = STRANGER.cert_pem.bytes().decode()


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and its key, both PEM. The key is PKCS #8, the only form that Kafka reads."""

    certificate: str
    key: str

    @property
    def chain(self) -> str:
        return self.key + self.certificate

    def written(self, directory: Path, name: str) -> tuple[Path, Path]:
        """Write both to files that only their owner may read, as libpq demands. Returns their paths."""
        directory.mkdir(exist_ok=True)
        paths = directory / f"{name}.crt", directory / f"{name}.key"
        for path, text in zip(paths, (self.certificate, self.key), strict=True):
            path.write_text(text)
            path.chmod(0o600)
        return paths

    def server_side(self, directory: Path) -> ssl.SSLContext:
        """Return the context of a server that shows this certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.written(directory, "server"))
        return context


def issued(*names: str, by: trustme.CA = AUTHORITY, expired: bool = False, owner: str | None = None) -> Certificate:
    """Issue a certificate for these hosts or addresses. A client's is for an `owner`, its common name."""
    until = datetime.now(UTC) + timedelta(days=-1 if expired else 1)
    names = names or (f"{owner}.client.example",)  # Java refuses certificates without any
    leaf = by.issue_cert(*names, common_name=owner, not_after=until)
    (certificate,) = leaf.cert_chain_pems
    return Certificate(certificate.bytes().decode(), _pkcs8(leaf.private_key_pem.bytes()))


def expired() -> ssl.SSLCertVerificationError:
    """Return what OpenSSL makes of a server's expired certificate."""
    error = ssl.SSLCertVerificationError(1, "certificate has expired")
    error.verify_code = 10
    return error


def _pkcs8(key: bytes, password: bytes | None = None) -> str:
    encryption = NoEncryption() if password is None else BestAvailableEncryption(password)
    return load_pem_private_key(key, None).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption).decode()


LOCAL = issued("127.0.0.1", "localhost")
ENCRYPTED_KEY = _pkcs8(LOCAL.key.encode(), b"of the key")
