"""How full the store is, by its own word, and which nodes of a cluster give theirs."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Final, NamedTuple

from common.addresses import Address
from common.errors import StoreUnavailable
from common.storage.cluster import ClusterConnection
from common.storage.store import Command, Reply
from common.storage.stores import Store

USED: Final = b"used_memory"
MAX: Final = b"maxmemory"
_INFO: Final[Command] = ("INFO", "memory")


class NodeMemory(NamedTuple):
    """Of a primary of a cluster."""

    address: str
    answers: bool = False
    used: int = 0
    limit: int = 0
    replicas: int = 0
    """That are connected to it."""


class StoreMemory(NamedTuple):
    """Bytes; 0 is not known."""

    used: int = 0
    limit: int = 0
    """0 is none, too."""
    nodes: tuple[NodeMemory, ...] = ()
    """Of a cluster; the figures above are those of all that answer."""


def read_memory(store: Store) -> StoreMemory:
    """Raises StoreUnavailable. A store that may not be asked, or answers something else, is not known."""
    if isinstance(store, ClusterConnection):
        return total(_read_nodes(store))
    [reply] = store.execute([_INFO])
    return _of_reply(reply)


def total(nodes: Iterable[NodeMemory]) -> StoreMemory:
    """A limit is one when every node has one: what one node lacks, another has no use for."""
    nodes = tuple(nodes)
    there = [node for node in nodes if node.answers]
    limits = [node.limit for node in there]
    return StoreMemory(sum(node.used for node in there), sum(limits) if all(limits) else 0, nodes)


def parse_memory(text: bytes) -> StoreMemory:
    fields = dict(line.split(b":", 1) for line in text.splitlines() if b":" in line)
    try:
        return StoreMemory(int(fields.get(USED, 0)), int(fields.get(MAX, 0)))
    except ValueError:
        return StoreMemory()


def _of_reply(reply: Reply) -> StoreMemory:
    return parse_memory(reply) if isinstance(reply, bytes) else StoreMemory()


def _read_nodes(store: ClusterConnection) -> Iterable[NodeMemory]:
    """The primaries as they are now; when no node answers, those that were known."""
    with suppress(StoreUnavailable):
        store.leave_old_primary()
    return [_read_node(store, address) for address in store.primaries]


def _read_node(store: ClusterConnection, address: Address) -> NodeMemory:
    try:
        info, role = store.part(address).execute([_INFO, ("ROLE",)])
    except StoreUnavailable:
        return NodeMemory(str(address))
    memory = _of_reply(info)
    replicas = len(role[2]) if isinstance(role, list) and role[0] == b"master" else 0
    return NodeMemory(str(address), True, memory.used, memory.limit, replicas)
