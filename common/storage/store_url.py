"""The URL of a store: which there are, what is shown of one, and redis-py's connections made of it.

A password that is not encoded as it should be makes other parts of the URL belong to it, so no message quotes
more than is surely none of it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

import redis

from common.paths import data_dir
from common.storage.cluster_map import SCHEMES as CLUSTER_SCHEMES
from common.storage.embedded_store import read_url
from common.storage.sentinel import SCHEMES as SENTINEL_SCHEMES
from common.tls import ClientTls, TlsError

EMBEDDED: Final = "embedded:"

_SCHEMES: Final = ("redis://", "rediss://", "unix://", *SENTINEL_SCHEMES, *CLUSTER_SCHEMES)
_OPTIONS_BEGIN: Final = re.compile(r"[?#]")

_HOSTS: Final = re.compile(r"(?:(?:\[[0-9A-Fa-f:.%]+\]|[\w.-]+)(?::\d+)?,?)*")
_UNCLEAR: Final = "…"

_ENCODE: Final = "its parts can't be told apart; in user and password, / ? # @ and : are percent-encoded"


class StoreUrlError(ValueError):
    """The URL of the store is not one; the text says what was expected."""


def resolve_store_url(url: str) -> str:
    """The URL to connect to: `embedded:DIR` becomes that of the store running there, others stay.

    Raises StoreUrlError for any other scheme, StoreUnavailable when no store runs in DIR.
    """
    if url.startswith(EMBEDDED):
        return read_url(url.removeprefix(EMBEDDED))
    if not url.startswith(_SCHEMES):
        raise StoreUrlError(
            f"a store's URL begins with {', '.join(_SCHEMES)} or {EMBEDDED}DIR, "
            f"which {url.partition(':')[0][:40]!r}… does not"
        )
    return url


def default_store_url(data: Path | None = None) -> str:
    """Where commands look that are given no store: the embedded store of `ratel up`."""
    return f"{EMBEDDED}{data or data_dir()}"


def describe_store_url(url: str) -> str:
    """The URL without user, password and options, fit for logs and messages.

    A password that is not encoded as it should be makes other parts of what belongs to it; where it can't be
    told what is what, nothing is shown.
    """
    if not url.startswith(_SCHEMES):
        return url
    scheme, _, rest = url.partition("://")
    shown, *options = _OPTIONS_BEGIN.split(rest, maxsplit=1)
    if not (scheme == "unix" and shown.startswith("/")):
        shown = shown.rpartition("@")[2]
    hosts, slash, path = shown.partition("/")
    if "@" in "".join(options) or not _HOSTS.fullmatch(hosts):
        return f"{scheme}://{_UNCLEAR}"
    return f"{scheme}://{hosts}{slash}{unquote(path)}"


def connection_pool(url: str, timeout_s: float) -> redis.ConnectionPool:
    """What makes connections by this URL. Raises StoreUrlError."""
    head, *options = _OPTIONS_BEGIN.split(url, maxsplit=1)
    # Both may be of a password, so that a piece of it is the host.
    if "@" in head and "@" in "".join(options):
        raise StoreUrlError(f"not a store's URL: {describe_store_url(url)}: {_ENCODE}")
    try:
        return redis.ConnectionPool.from_url(
            url,
            protocol=2,
            socket_connect_timeout=timeout_s,
            socket_timeout=timeout_s,
        )
    except (ValueError, TypeError) as error:
        reason = str(error)
        if reason.startswith("Port could not"):
            reason = "the port is no number"
        elif not reason.startswith("Invalid value for"):  # it may quote a piece of a password
            reason = _ENCODE
        raise StoreUrlError(f"not a store's URL: {describe_store_url(url)}: {reason}") from None


def check_tls(url: str) -> None:
    """The files that a URL with TLS names can be used. Raises StoreUrlError."""
    if not url.startswith("rediss://"):
        return
    options = dict(parse_qsl(urlsplit(url).query))
    ca, cert, key = (options.get(f"ssl_{name}") for name in ("ca_certs", "certfile", "keyfile"))
    if not (ca or cert or key):
        return
    try:
        ClientTls(ca, cert, key).context()
    except TlsError as error:
        raise StoreUrlError(f"not a store's URL: {describe_store_url(url)}: {error}") from None
