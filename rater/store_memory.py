"""How full the store is, by its own word."""

from __future__ import annotations

from typing import Final, NamedTuple

from common.storage.stores import Store

USED: Final = b"used_memory"
MAX: Final = b"maxmemory"


class StoreMemory(NamedTuple):
    """Bytes; 0 is not known."""

    used: int = 0
    limit: int = 0
    """0 is none, too."""


def read_memory(store: Store) -> StoreMemory:
    """Raises StoreUnavailable. A store that may not be asked, or answers something else, is not known."""
    [reply] = store.execute([("INFO", "memory")])
    return parse_memory(reply) if isinstance(reply, bytes) else StoreMemory()


def parse_memory(text: bytes) -> StoreMemory:
    fields = dict(line.split(b":", 1) for line in text.splitlines() if b":" in line)
    try:
        return StoreMemory(int(fields.get(USED, 0)), int(fields.get(MAX, 0)))
    except ValueError:
        return StoreMemory()
