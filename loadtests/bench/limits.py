"""The limits that no design around this store and this wire can be faster than, measured beside the work."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Final

from common.storage.store import Command, StoreConnection
from loadtests.bench.client import Outcome
from loadtests.bench.requests import Request

PIPELINED: Final = 64
SCRIPT: Final = """
local left = redis.call('HINCRBY', KEYS[1], 'credit', -ARGV[1])
redis.call('SET', KEYS[2], left, 'PX', ARGV[2])
return left
"""
"""The least that a debit under a token can be: no checks, no journal."""

TOKEN_TTL_MS: Final = 60_000
"""Longer than a run. They are taken away behind it: hundreds of thousands that expire while debits are
measured cost those a seventh of their rate."""

REMOVED_AT_ONCE: Final = 1_000

ECHO_RESULT: Final = 540_000
"""Thousandths: what the echoing rater answers to everything."""

BARE_HTTP: Final = Request("healthz", {}, {"status": "up"})


def echo_requests(requests: list[Request]) -> list[Request]:
    return [request._replace(expected=ECHO_RESULT) for request in requests]


def script_loop(store: StoreConnection, seconds: float) -> Outcome:
    """The script on one hot account, `PIPELINED` at a time."""
    sha = store.execute([("SCRIPT", "LOAD", SCRIPT)])[0]
    stem = f"ratel:{{bench:{secrets.token_hex(8)}}}:"
    account = f"{stem}account"

    def token(number: int) -> str:
        return f"{stem}token:{number}"

    def batch(number: int) -> list[Command]:
        return [
            ("EVALSHA", sha, 2, account, token(number + place), 1, TOKEN_TTL_MS) for place in range(PIPELINED)
        ]

    outcome = _loop(store, seconds, batch)
    [credit] = store.execute([("HGET", account, "credit")])
    assert int(credit) == -outcome.sent, "the bare script was not carried out as often as asked"
    store.execute([("DEL", account)])
    for begin in range(0, outcome.sent, REMOVED_AT_ONCE):
        numbers = range(begin, min(begin + REMOVED_AT_ONCE, outcome.sent))
        store.execute([("UNLINK", *map(token, numbers))])
    return outcome


def trip_loop(store: StoreConnection, seconds: float) -> Outcome:
    """One PING after the other, from Python."""
    return _loop(store, seconds, lambda _: [("PING",)])


def _loop(store: StoreConnection, seconds: float, batch: Callable[[int], list[Command]]) -> Outcome:
    outcome = Outcome(seconds)
    until_s = time.monotonic() + seconds
    while (began_s := time.monotonic()) < until_s:
        commands = batch(outcome.sent)
        replies = store.execute(commands)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        outcome.latencies_s += [time.monotonic() - began_s] * len(replies)
        outcome.sent += len(commands)
        outcome.in_time += len(replies)
    return outcome
