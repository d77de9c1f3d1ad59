"""A cluster's address, and who serves which slot: URLs, slots of keys, what the nodes say. No I/O.

    redis+cluster://[user:password@]host[:6379][,host[:6379]…][?options]       rediss+cluster:// with TLS

The hosts are some of the nodes, of which one has to answer at the start; the others are learned. User,
password and options hold for every node.

A key's slot is the CRC16 of what stands in its first braces, of 16,384. Each slot has one primary. What the
nodes say of that is gossip: after a failover, or while slots are moved, some are behind the others. So
several are asked, and the one with the highest epoch is believed, since each such change raises it. A node
that does not serve a slot says who does (`MOVED`), and one that is handing it over may ask for a single
question to be put to the other (`ASK`).
"""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Iterable
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from common.addresses import Address, parse_address

SCHEME: Final = "redis+cluster://"
TLS_SCHEME: Final = "rediss+cluster://"
SCHEMES: Final = (SCHEME, TLS_SCHEME)
DEFAULT_PORT: Final = 6379
SLOTS: Final = 16_384

_KEYLESS: Final = frozenset(
    ("PING", "TIME", "ROLE", "INFO", "DBSIZE", "SCAN", "SCRIPT", "CONFIG", "CLUSTER", "WAIT", "WAITAOF")
)
_SCRIPT_CALLS: Final = frozenset(("EVALSHA", "EVAL", b"EVALSHA", b"EVAL"))


class ClusterUrl(NamedTuple):
    seeds: tuple[Address, ...]
    scheme: str
    """Of a node's URL."""
    login: str
    """`user:password@` or empty, encoded as it came."""
    query: str

    def node_url(self, address: Address) -> str:
        return f"{self.scheme}{self.login}{address}{self.query}"


def parse_cluster_url(url: str) -> ClusterUrl:
    """Raises ValueError, whose text holds no password."""
    parts = urlsplit(url)
    login, at, hosts = parts.netloc.rpartition("@")
    seeds = tuple(_address(host) for host in hosts.split(","))
    if parts.path not in ("", "/", "/0"):
        raise ValueError("a cluster has no databases to choose from: nothing comes after the hosts")
    return ClusterUrl(
        seeds,
        f"{parts.scheme.removesuffix('+cluster')}://",
        login + at,
        f"?{parts.query}" if parts.query else "",
    )


def _address(host: str) -> Address:
    has_port = ":" in host.rpartition("]")[2]
    try:
        return parse_address(host if has_port else f"{host}:{DEFAULT_PORT}")
    except ValueError:  # its text could show a piece of a password with a "/" in it
        raise ValueError("the nodes are HOST or HOST:PORT, with commas between them") from None


# --- keys -------------------------------------------------------------------------------------------


def slot_of(key: bytes | str) -> int:
    if isinstance(key, str):
        key = key.encode()
    start = key.find(b"{") + 1
    if start:
        end = key.find(b"}", start)
        if end > start:
            key = key[start:end]
    return crc_hqx(key, 0) % SLOTS


def key_of(command: tuple[bytes | str | int, ...]) -> bytes | str | None:
    """The first key of one of the commands that Ratel uses; None when it has none."""
    name = command[0]
    if name in _SCRIPT_CALLS:
        key = command[3]
    elif len(command) == 1 or name in _KEYLESS:
        return None
    else:
        key = command[1]
    assert not isinstance(key, int)
    return key


# --- what nodes say ---------------------------------------------------------------------------------


class View(NamedTuple):
    """The cluster as one node sees it."""

    is_whole: bool
    """It takes the cluster for able to work."""
    epoch: int
    ranges: tuple[tuple[int, int, Address], ...]
    """First and last slot and the primary of each range that has one."""


def parse_view(info: bytes, slots: list[Any], asked: Address) -> View:
    """From the replies to CLUSTER INFO and CLUSTER SLOTS. Raises ValueError when they are none."""
    fields = dict(line.split(b":", 1) for line in info.split(b"\r\n") if b":" in line)
    ranges = []
    for first, last, (host, port, *_), *_ in slots:
        # None or an empty text is the host that was asked, "?" one that it does not know itself.
        name = asked.host if host in (None, b"") else host.decode()
        if name != "?":
            ranges.append((first, last, Address(name, port)))
    try:
        epoch = int(fields[b"cluster_current_epoch"])
    except KeyError:
        raise ValueError("CLUSTER INFO has no epoch") from None
    return View(fields.get(b"cluster_state") == b"ok", epoch, tuple(ranges))


def newest(views: Iterable[View]) -> View:
    """The one to believe: a node that was cut off or stood still is behind in epochs."""
    return max(views, key=lambda view: (view.epoch, view.is_whole, len(view.ranges)))


class Redirect(NamedTuple):
    is_ask: bool
    """For this one question; else from now on."""
    slot: int
    address: Address


def parse_redirect(error: str, asked: Address) -> Redirect | None:
    """`MOVED 3999 10.0.0.1:6379` or `ASK …`; None for any other error."""
    words = error.split(" ")
    if words[0] not in ("MOVED", "ASK") or len(words) < 3:
        return None
    host, _, port = words[2].rpartition(":")
    if host == "?":
        return None
    return Redirect(words[0] == "ASK", int(words[1]), Address(host.strip("[]") or asked.host, int(port)))


def holdings(nodes: bytes) -> str:
    """From a node's CLUSTER NODES: its own epoch and slots, those that it is handing over in brackets.

    Two texts that are alike and without brackets mean that no slot came or went in between.
    """
    for line in nodes.decode().split("\n"):
        words = line.split(" ")
        if len(words) >= 8 and "myself" in words[2].split(","):
            return " ".join([words[6], *words[8:]])
    return ""
