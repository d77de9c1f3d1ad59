"""Finding the accounts of a store while it works, in bounded steps, and reading names from keys.

A store also holds the tokens of a day, so most of what a scan passes is not looked for: the store
filters by pattern, and what comes back is held to the exact form of the keys here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from redis.exceptions import ResponseError

from common.errors import InvalidParams, StoreUnavailable
from common.storage.cluster import ClusterConnection
from common.storage.store import Reply, StoreConnection
from common.storage.stores import Store
from rater.store.errors import store_error
from rater.store.keys import AccountKeys, account_keys, encode_part

SCAN_COUNT: Final = 1_000
"""Keys that one step passes: well below a millisecond of the store's time."""

BATCH_ACCOUNTS: Final = 32
BATCH_LINES: Final = 256
"""Accounts and lines of each in one round trip: at most some 3 MB, and each account is a command of its own,
between which the store serves others."""

_MAX_SCANS: Final = 20
"""How often the nodes of a cluster are scanned again because slots came and went."""

_KEY: Final = re.compile(rb"ratel:\{([^:{}]*):([^:{}]*)\}:(?:account|journal)", re.DOTALL)
_GLOB: Final = re.compile(r"[\\*?\[\]^]")

ScanProgress = Callable[[int, int], None]
"""Called with about how many of how many keys are passed."""


class Name(NamedTuple):
    """Which account."""

    tenant: str
    subject: str


def name_of(key: bytes) -> Name | None:
    """Whose account or journal a key is; None for any other key."""
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    try:
        name = Name(unquote_to_bytes(match[1]).decode(), unquote_to_bytes(match[2]).decode())
        keys = account_keys(*name)
    except (UnicodeDecodeError, InvalidParams):
        return None
    return name if key in (keys.account, keys.journal) else None


def pattern(kind: str, tenant: str | None = None, subject: str | None = None) -> bytes:
    """What SCAN is to match: keys of a kind (`journal`, `*`), of all or of one tenant or subject."""
    parts = ("*" if part is None else _GLOB.sub(r"\\\g<0>", encode_part(part)) for part in (tenant, subject))
    return f"ratel:{{{':'.join(parts)}}}:{kind}".encode()


def scan(store: Store, match: bytes, progress: ScanProgress) -> Iterator[list[Name]]:
    """The accounts whose keys match, step by step; one may come more than once.

    Each one that is there from beginning to end comes at least once.
    """
    if isinstance(store, ClusterConnection):
        yield from _scan_cluster(store, match, progress)
    else:
        yield from _scan_all([store], match, progress)


def _scan_cluster(store: ClusterConnection, match: bytes, progress: ScanProgress) -> Iterator[list[Name]]:
    """A slot that moves from a node that is yet to be scanned to one that was would be missed: so nodes to
    which slots came meanwhile, or may have, are scanned again."""
    before = store.survey()
    changed = set(before)
    for _ in range(_MAX_SCANS):
        yield from _scan_all([store.part(address) for address in sorted(changed)], match, progress)
        after = store.survey()
        changed = {
            address for address, holds in after.items() if holds != before.get(address) or "[" in holds
        }
        if not changed:
            return
        before = after
    raise StoreUnavailable(detail=f"{store.where}: slots are being moved, and the accounts with them")


def _scan_all(parts: Sequence[StoreConnection], match: bytes, progress: ScanProgress) -> Iterator[list[Name]]:
    total = sum(int(checked(part.execute([("DBSIZE",)])[0])) for part in parts)
    passed = 0
    for part in parts:
        cursor = b"0"
        while True:
            command = ("SCAN", cursor, "MATCH", match, "COUNT", SCAN_COUNT)
            cursor, keys = checked(part.execute([command])[0])
            names = [name for key in keys if (name := name_of(key)) is not None]
            yield list(dict.fromkeys(names))
            passed += SCAN_COUNT
            progress(min(passed, total), total)
            if cursor == b"0":
                break
    progress(total, total)


def batches(names: list[Name]) -> Iterator[list[tuple[Name, AccountKeys]]]:
    """Names with their keys, as many as are read in one round trip."""
    for begin in range(0, len(names), BATCH_ACCOUNTS):
        yield [(name, account_keys(*name)) for name in names[begin : begin + BATCH_ACCOUNTS]]


def checked(reply: Reply) -> Reply:
    """The reply, unless the store refused the command. Raises what it refused."""
    if isinstance(reply, ResponseError):
        raise store_error(reply)
    return reply
