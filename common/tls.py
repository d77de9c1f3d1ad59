"""TLS for clients and servers: contexts from files, and errors that name the file and the setting.

TLS 1.2 and 1.3. A server's certificate is checked against the host that was asked for, a client's against
the CA that the server was given. Everything is checked when a context is made, so that what is wrong with the
files is said at the start and not to the first who connects.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

_MINIMUM: Final = ssl.TLSVersion.TLSv1_2
_CERTIFICATE: Final = b"-----BEGIN CERTIFICATE-----"
_KEY: Final = b"PRIVATE KEY-----"

HANDSHAKE: Final = b"\x16\x03"
"""How a TLS connection begins: a record of the kind handshake, of any version since SSL 3."""


class TlsError(Exception):
    """A context can't be made of the files; the text says which one, and what is wrong with it."""


class TlsRefused(OSError):
    """TLS went wrong, at the handshake or as the first thing after it: with TLS 1.3 a client has shaken hands
    before the server has seen its certificate."""


_AnyContext = TypeVar("_AnyContext", bound=ssl.SSLContext)


@dataclass(frozen=True, slots=True)
class Names:
    """What the files are called in messages: the options that named them."""

    cert: str
    key: str
    ca: str


_SERVER_NAMES: Final = Names("--tls-cert", "--tls-key", "--tls-client-ca")
_CLIENT_NAMES: Final = Names("the client's certificate", "the client's key", "the CA")


@dataclass(frozen=True, slots=True)
class ServerTls:
    cert: Path
    """PEM: the server's certificate, and those between it and the CA."""
    key: Path
    """PEM, without a passphrase."""
    client_ca: Path | None = None
    """PEM: who may have signed clients' certificates. None: clients are not asked for any."""
    client_cert_required: bool = True
    """With `client_ca`: a client without a certificate is refused. One with a wrong one is in any case."""

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.cert, self.key) if self.client_ca is None else (self.cert, self.key, self.client_ca)

    @property
    def clients(self) -> str:
        """Who is let in, for the log."""
        if self.client_ca is None:
            return "any-client"
        return "client-cert-required" if self.client_cert_required else "client-cert-optional"

    def context(self, kind: type[_AnyContext], protocols: tuple[str, ...]) -> _AnyContext:
        """For new connections, with ALPN for `protocols`. Raises TlsError."""
        context = kind(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = _MINIMUM
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
        _load_pair(context, self.cert, self.key, _SERVER_NAMES)
        if self.client_ca is not None:
            _load_ca(context, self.client_ca, _SERVER_NAMES)
            context.verify_mode = ssl.CERT_REQUIRED if self.client_cert_required else ssl.CERT_OPTIONAL
            # A resumed session is not checked again, and could outlive the CA that it was let in by.
            context.options |= ssl.OP_NO_TICKET
            context.num_tickets = 0
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context


@dataclass(frozen=True, slots=True)
class ClientTls:
    """How a client speaks TLS. The server is always checked; there is no option to leave that out."""

    ca: str | Path | None = None
    """PEM: who may have signed the server's certificate. None: whom the system trusts."""
    cert: str | Path | None = None
    key: str | Path | None = None
    """PEM: the client's own certificate and its key, for servers that ask for one."""
    server_name: str = ""
    """The name in the server's certificate, where it is not the host of the address."""

    def context(self) -> ssl.SSLContext:
        """Raises TlsError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks certificates and names
        context.minimum_version = _MINIMUM
        if self.ca is None:
            context.load_default_certs()
        else:
            _load_ca(context, Path(self.ca), _CLIENT_NAMES)
        if self.cert is not None and self.key is not None:
            _load_pair(context, Path(self.cert), Path(self.key), _CLIENT_NAMES)
        elif self.cert is not None or self.key is not None:
            raise TlsError(
                f"{_CLIENT_NAMES.cert} and {_CLIENT_NAMES.key} go together: one of them is missing"
            )
        return context


def explain(error: BaseException) -> str:
    """What went wrong between two that tried to speak TLS, for a log or a message; `str` of other errors."""
    if not isinstance(error, ssl.SSLError):
        return str(error) or type(error).__name__
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is refused: {error.verify_message}"
    reason = error.reason or ""
    known = _EXPLANATIONS.get(reason)
    if known is None:
        return reason.lower().replace("_", " ") or str(error)
    return known


_PLAIN: Final = "the other side does not speak TLS"
_EXPLANATIONS: Final = {
    "HTTP_REQUEST": "plain HTTP where TLS is spoken",
    "WRONG_VERSION_NUMBER": _PLAIN,
    "PACKET_LENGTH_TOO_LONG": _PLAIN,
    "RECORD_LAYER_FAILURE": _PLAIN,
    "UNSUPPORTED_PROTOCOL": "a version of TLS before 1.2",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it has no client certificate, which is required",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "a client certificate is required",
    "TLSV1_ALERT_UNKNOWN_CA": "our certificate's CA is not known there",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "our certificate has expired",
    "SSLV3_ALERT_BAD_CERTIFICATE": "our certificate is refused",
}


def _load_pair(context: ssl.SSLContext, cert: Path, key: Path, names: Names) -> None:
    cert_text, key_text = _read(cert, names.cert), _read(key, names.key)
    if _CERTIFICATE not in cert_text:
        raise TlsError(f"{names.cert} {cert}: holds no certificate in PEM form")
    if _KEY not in key_text:
        raise TlsError(f"{names.key} {key}: holds no private key in PEM form")
    try:
        context.load_cert_chain(cert, key, password=_no_passphrase)
    except _Passphrase:
        raise TlsError(f"{names.key} {key}: has a passphrase; a key without one is needed") from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TlsError(f"{names.key} {key}: is not the key of the certificate in {cert}") from None
        raise TlsError(f"{names.cert} {cert}, {names.key} {key}: {explain(error)}") from None
    except OSError as error:
        raise TlsError(f"{names.cert} {cert}, {names.key} {key}: {error.strerror}") from None


def _load_ca(context: ssl.SSLContext, ca: Path, names: Names) -> None:
    if _CERTIFICATE not in _read(ca, names.ca):
        raise TlsError(f"{names.ca} {ca}: holds no certificate in PEM form")
    try:
        context.load_verify_locations(ca)
    except (ssl.SSLError, OSError) as error:
        raise TlsError(f"{names.ca} {ca}: {explain(error)}") from None


def _read(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsError(f"{name} {path}: {error.strerror}") from None


class _Passphrase(Exception):
    pass


def _no_passphrase() -> str:
    """Instead of OpenSSL's question at the terminal."""
    raise _Passphrase
