"""What a debit and a read cost the store and its client: CPU time for each, by length of the list.

    python -m loadtests.store_cost

It starts an embedded store in a temporary folder and works there; nothing else is touched. The least of
several rounds is shown, and the rounds take turns, so that other work on the machine meets all alike.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Final

from common.storage.embedded_store import EmbeddedStore
from common.storage.store import Command, Reply, StoreConnection
from loadtests.bench.figures import cpu_s
from loadtests.bench.limits import SCRIPT
from rater.accounts.mutation import Mutation
from rater.accounts.mutations import batch_command, parse_account, parse_mutation_reply, read_command
from rater.accounts.opening import open_command
from rater.model import Account, Bucket
from rater.store.keys import AccountKeys, account_keys
from rater.store.scripts import execute

TENANT: Final = "vdf"
ACCOUNTS: Final = 20_000
PIPELINED: Final = 64
"""Requests in one round trip, however they are divided into lists."""
TRIPS: Final = 25
LISTS: Final = (1, 4, 16, 64)
METHODS: Final = ("DebitBalance", "DebitSMS", "DebitSeconds")
CREDIT_MICROS: Final = 10**15
STRIDE: Final = 7_919
"""A prime: the accounts come in an order that no cache expects."""

Trip = Callable[[], None]
_serial = count()


def subject(number: int) -> str:
    return f"40256{number:08}"


def opening(number: int) -> Command:
    bucket = Bucket("on-net", CREDIT_MICROS, 10, 0)
    account = Account(subject(number), CREDIT_MICROS, CREDIT_MICROS, buckets=(bucket,))
    return open_command(account_keys(TENANT, account.subject), account)


def accounts(spread: bool) -> Iterator[str]:
    return (subject(number * STRIDE % ACCOUNTS if spread else 0) for number in count())


def request(method: str, name: str) -> tuple[AccountKeys, Mutation]:
    number = next(_serial)
    mutation = Mutation(
        method=method,
        tenant=TENANT,
        subject=name,
        token=f"g:0123456789abcdef-{number}",
        token_ttl_ms=65_000,
        amount_micros=1_000_000,
        destination=f"09{number % 10**8:08}",
        matches=(("on-net", 4),) if method == "DebitSeconds" else (),
        deadline_us=2**52,
    )
    return account_keys(TENANT, name), mutation


def debits(store: StoreConnection, method: str, spread: bool, length: int) -> Trip:
    names = accounts(spread)

    def trip() -> None:
        lists = [[request(method, next(names)) for _ in range(length)] for _ in range(PIPELINED // length)]
        replies = execute(store, [batch_command(method, batch) for batch in lists])
        for batch, reply in zip(lists, replies, strict=True):
            for (_, mutation), outcome in zip(batch, reply, strict=True):
                parse_mutation_reply(mutation, outcome)

    return trip


def reads(store: StoreConnection, length: int) -> Trip:
    names = accounts(spread=True)

    def trip() -> None:
        lists = [[next(names) for _ in range(length)] for _ in range(PIPELINED // length)]
        replies = store.execute(
            [read_command([account_keys(TENANT, n).account for n in some]) for some in lists]
        )
        for some, values in zip(lists, replies, strict=True):
            for name, value in zip(some, values, strict=True):
                assert parse_account(name, value) is not None

    return trip


def bare(store: StoreConnection) -> Trip:
    """The debit script of `make bench`: no checks, no journal."""
    [sha] = store.execute([("SCRIPT", "LOAD", SCRIPT)])

    def trip() -> None:
        token = "ratel:{bare}:token:"
        commands: list[Command] = [
            ("EVALSHA", sha, 2, "ratel:{bare}:account", f"{token}{next(_serial)}", 1, 65_000)
            for _ in range(PIPELINED)
        ]
        _check(store.execute(commands))

    return trip


def _check(replies: list[Reply]) -> None:
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=8)
    rounds = parser.parse_args().rounds
    with (
        tempfile.TemporaryDirectory(prefix="ratel-") as folder,
        EmbeddedStore(folder) as server,
        StoreConnection(server.url, timeout_ms=60_000) as store,
    ):
        assert server.pid is not None
        for begin in range(0, ACCOUNTS, 1_000):
            _check(execute(store, [opening(number) for number in range(begin, begin + 1_000)]))
        trips = {"bare script": bare(store)}
        for method in METHODS:
            for spread in (False, True):
                for length in LISTS:
                    where = f"{ACCOUNTS:,} accounts" if spread else "one account"
                    trips[f"{method}, {where}, lists of {length}"] = debits(store, method, spread, length)
        trips |= {f"read, {ACCOUNTS:,} accounts, lists of {n}": reads(store, n) for n in (1, 64)}
        least = dict.fromkeys(trips, (float("inf"), float("inf")))
        for _ in range(rounds):
            for name, trip in trips.items():
                trip()
                store_s, client_s = cpu_s(server.pid), time.process_time()
                for _ in range(TRIPS):
                    trip()
                spent = cpu_s(server.pid) - store_s, time.process_time() - client_s
                us = [1e6 * seconds / TRIPS / PIPELINED for seconds in spent]
                least[name] = (min(least[name][0], us[0]), min(least[name][1], us[1]))
    print("| CPU µs for each | store | client |\n| --- | ---: | ---: |")
    for name, (store_us, client_us) in least.items():
        print(f"| {name} | {store_us:.1f} | {client_us:.1f} |")


if __name__ == "__main__":
    main()
