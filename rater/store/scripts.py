"""The Lua scripts, and how they are run.

One file in `rater/lua` is one verb. What several verbs need is in files that begin with `_`; a line
`--@include _name.lua` is replaced by that file's text when the scripts are loaded. The pieces are
statements that share local variables rather than functions, because a function would be created
anew by every run.

The verbs that change accounts take a list of requests, and all have the same shape for each: `_begin.lua`
(token, deadline, account), checks that may set `refusal`, `_refuse.lua`, then the writes: `_journal.lua`,
`_commit.lua`. A script has no rollback, so nothing is written before all is checked. What a request needs
that may be missing or damaged is an error in its own place in the reply, and its neighbours go on.

Scripts are called by their SHA-1. A store that was restarted or flushed has forgotten them; it
answers NOSCRIPT and has run nothing, so these commands are sent again after loading.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Generator, Sequence
from importlib.resources import files
from typing import Final, NamedTuple

from redis.exceptions import NoScriptError

from common.storage.cluster import ClusterConnection
from common.storage.store import Command, Reply, StoreConnection
from common.storage.stores import Store

_INCLUDE: Final = re.compile(r"^--@include (_\w+\.lua)$", re.MULTILINE)
_FOLDER: Final = files("rater") / "lua"


class Script(NamedTuple):
    text: str
    """As it is sent to the store, with everything included."""
    sha: bytes


def _load(name: str) -> Script:
    source = (_FOLDER / f"{name}.lua").read_text(encoding="utf-8")
    text = _INCLUDE.sub(lambda match: (_FOLDER / match[1]).read_text(encoding="utf-8"), source)
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest().encode())


SCRIPTS: Final[dict[str, Script]] = {
    name: _load(name)
    for name in (
        "open_account",
        "set_terms",
        "debit_balance",
        "debit_sms",
        "debit_seconds",
        "add_volume_discount",
        "reset_volume_discount",
        "add_received_seconds",
        "reset_user_budget",
        "trim_journal",
    )
}


LOADS: Final[list[Command]] = [("SCRIPT", "LOAD", script.text) for script in SCRIPTS.values()]


def execute(store: Store, commands: Sequence[Command], waits: Sequence[Command] = ()) -> list[Reply]:
    """`round_trip` from its beginning to its end. No commands have no replies."""
    if not commands and not waits:
        return []
    if isinstance(store, ClusterConnection):
        assert not waits, "in a cluster they go to each node, see rater.work.cluster_service"
        return store.receive(store.send(commands, loads=LOADS)).replies
    steps = round_trip(store, commands, waits)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            replies: list[Reply] = end.value
            return replies


def round_trip(
    store: StoreConnection, commands: Sequence[Command], waits: Sequence[Command] = ()
) -> Generator[None, None, list[Reply]]:
    """`store.execute` for commands, at least one, of which some are EVALSHA: loads what is not known there.

    Commands that met a missing script run after the others of the batch. They stay unanswered with their
    NoScriptError when the store has turned out to be a replica meanwhile: the next connection may be to
    another host, about which nothing is known yet.

    `waits` are commands that wait for what this connection wrote before them: they are sent last, after
    every attempt, and their last replies are the last of the list.

    It pauses where it waits for replies, so that others may send meanwhile. Whoever shares the connection in
    that way goes on in the order in which all of them were paused.
    """
    commands = [*commands, *waits]
    sent, connection = store.send(commands), store.number
    yield
    replies = store.receive(sent)
    if NoScriptError not in map(type, replies):
        return replies
    while store.unread:  # by others
        yield
    if store.number != connection:
        return replies
    missing = [index for index, reply in enumerate(replies) if type(reply) is NoScriptError]
    missing += range(len(commands) - len(waits), len(commands))
    again = store.execute([*LOADS, *(commands[index] for index in missing)])[len(LOADS) :]
    for index, reply in zip(missing, again, strict=True):
        replies[index] = reply
    return replies
