"""Where the primary is: the URL of a group that sentinels watch over, and asking them.

    redis+sentinel://[user:password@]host[:26379][,host[:26379]…]/service[/db][?options]

User, password, database and options are those of the stores themselves; the sentinels' own are the
options `sentinel_user` and `sentinel_password`. With `rediss+sentinel://` stores and sentinels are spoken to
over TLS, and the options that begin with `ssl_` are for both. Any sentinel may be asked, the first answer
counts.

A sentinel can be behind the others for a moment, and what it names may be about to be demoted. So the
caller makes sure that the server it is sent to takes itself for a primary (ROLE), and turns to the
next sentinel otherwise. What this cannot see is a primary that was cut off together with all its
clients: against that help the durability levels that wait for replicas (`common.storage.durability`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from common.addresses import Address, parse_address
from common.errors import StoreUnavailable

log = logging.getLogger(__name__)

SCHEME: Final = "redis+sentinel://"
TLS_SCHEME: Final = "rediss+sentinel://"
SCHEMES: Final = (SCHEME, TLS_SCHEME)
DEFAULT_PORT: Final = 26_379

TIMEOUT_MS: Final = 250
"""For each sentinel, which answers in a millisecond or two: with two of three dead a rater still finds
the primary well within its heartbeat's patience."""


class SentinelUrl(NamedTuple):
    sentinels: tuple[str, ...]
    """URLs to ask at."""
    service: str
    login: str
    """`user:password@` or empty, encoded as it came."""
    path: str
    """`/db` or empty."""
    query: str
    scheme: str = "redis"
    """Of stores and sentinels; `rediss` is TLS."""

    def primary_url(self, address: Address) -> str:
        return f"{self.scheme}://{self.login}{address}{self.path}{self.query}"


def parse_sentinel_url(url: str) -> SentinelUrl:
    """Raises ValueError, whose text holds no password."""
    parts = urlsplit(url)
    login, at, hosts = parts.netloc.rpartition("@")
    service, slash, db = parts.path.removeprefix("/").partition("/")
    if not service:
        raise ValueError(f"the name of the service is missing: {SCHEME}HOST:{DEFAULT_PORT}/SERVICE")
    if slash and not (db.isascii() and db.isdecimal()):
        # With an @ in it, it may be a piece of a password with a "/" in it.
        shown = f", not {db[:40]!r}" if "@" not in db + service else "; a / in a password is written %2F"
        raise ValueError(f"after the service comes the number of a database{shown}")
    options = parse_qsl(parts.query, keep_blank_values=True)
    own = {name: value for name, value in options if name.startswith("sentinel_")}
    user, password = own.pop("sentinel_user", ""), own.pop("sentinel_password", "")
    if own:
        raise ValueError(f"there is no option {min(own)[:40]!r}, but sentinel_user and sentinel_password")
    asked = f"{quote(user, safe='')}:{quote(password, safe='')}@" if user or password else ""
    others = [(name, value) for name, value in options if not name.startswith("sentinel_")]
    tls = [(name, value) for name, value in others if name.startswith("ssl_")]
    scheme = parts.scheme.partition("+")[0]
    asked_tls = f"?{urlencode(tls)}" if tls else ""
    return SentinelUrl(
        tuple(f"{scheme}://{asked}{_address(host)}{asked_tls}" for host in hosts.split(",")),
        unquote(service),
        login + at,
        slash + db,
        f"?{urlencode(others)}" if others else "",
        scheme,
    )


def _address(host: str) -> Address:
    has_port = ":" in host.rpartition("]")[2]
    try:
        return parse_address(host if has_port else f"{host}:{DEFAULT_PORT}")
    except ValueError:  # its text could show a piece of a password with a "/" in it
        raise ValueError("the sentinels are HOST or HOST:PORT, with commas between them") from None


Ask = Callable[[str, tuple[str, ...], int], Any]
"""URL, command and time-out in ms → the reply. May raise StoreUnavailable."""


class Sentinels:
    """Asks the sentinels of one group, the one that answered last first."""

    def __init__(self, url: SentinelUrl, ask: Ask) -> None:
        self._url = url
        self._ask = ask
        self._order = list(url.sentinels)

    def primaries(self, problems: list[str]) -> Iterator[str]:
        """URLs of what the sentinels name, each once; why others named none is added to `problems`."""
        named: set[Address] = set()
        for sentinel in tuple(self._order):
            where = urlsplit(sentinel).netloc.rpartition("@")[2]
            command = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._url.service)
            try:
                reply = self._ask(sentinel, command, TIMEOUT_MS)
            except StoreUnavailable as error:
                problems.append(str(error.data["detail"]))
                self._order.remove(sentinel)
                self._order.append(sentinel)
                continue
            if not isinstance(reply, list):
                reason = f"does not know the service {self._url.service!r}" if reply is None else str(reply)
                problems.append(f"sentinel {where}: {reason}")
                continue
            address = Address(reply[0].decode(), int(reply[1]))
            if address not in named:
                named.add(address)
                yield self._url.primary_url(address)
