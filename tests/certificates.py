"""Certificates for tests: an authority, and what it signs, as files."""

from __future__ import annotations

import datetime
from itertools import count
from pathlib import Path
from typing import Any

import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from common.tls import ClientTls

LONG_AGO = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
YESTERDAY = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
HERE = ("127.0.0.1", "localhost")


class Authority:
    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._ca = trustme.CA(organization_name=f"{name} of the tests")
        self._folder = folder
        self._name = name
        self._numbers = count(1)
        folder.mkdir(exist_ok=True)
        self.ca = folder / f"{name}.pem"
        self._ca.cert_pem.write_to_path(self.ca)

    def issue(self, *names: str, to: tuple[Path, Path] | None = None, **options: Any) -> tuple[Path, Path]:
        """Files of a new certificate and its key; over older ones if these are given."""
        issued = self._ca.issue_cert(*names, **options)
        stem = f"{self._name}-{next(self._numbers)}"
        cert, key = to or (self._folder / f"{stem}.pem", self._folder / f"{stem}.key")
        replace(cert, b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        replace(key, issued.private_key_pem.bytes())
        return cert, key

    def expired(self, *names: str) -> tuple[Path, Path]:
        return self.issue(*names, not_before=LONG_AGO, not_after=YESTERDAY)

    def client(self, *names: str, server_name: str = "") -> ClientTls:
        """How a client with a certificate of this authority's speaks TLS; without `names`, with none."""
        cert, key = self.issue(*names) if names else (None, None)
        return ClientTls(self.ca, cert, key, server_name)


def with_passphrase(key: Path) -> bytes:
    """The key as a file that asks for one."""
    secret = load_pem_private_key(key.read_bytes(), None)
    return secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))


def replace(path: Path, content: bytes) -> None:
    """As renewals do: a new file in the old one's place."""
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.replace(path)
