"""What a debit with a client's key costs the store: memory for key and journal line, bytes in its file.

    python loadtests/memory_per_key.py --debits 100000

It starts an embedded store in a temporary folder and debits there; nothing else is touched.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from uuid import uuid4

from common.storage.embedded_store import EmbeddedStore
from common.storage.store import Command, StoreConnection
from rater.accounts.mutation import Mutation
from rater.accounts.mutations import mutation_command
from rater.accounts.opening import open_command
from rater.model import Account
from rater.store.keys import account_keys
from rater.store.scripts import execute

TENANT = "vdf"
DAY_S = 86_400
PIPELINE = 1_000
CENT = 1_000_000
KEEP_ALL_LINES = 10_000_000


def subject(number: int) -> str:
    return f"40256{number:08}"


def opening(number: int) -> Command:
    account = Account(subject(number), 10_000_000 * CENT, 0, 0, 0, 0, 0, "", False, None, ())
    return open_command(account_keys(TENANT, account.subject), account)


def debit(number: int, accounts: int, key: str) -> Command:
    name = subject(number % accounts)
    mutation = Mutation(
        method="DebitBalance",
        tenant=TENANT,
        subject=name,
        token=f"c:{key}",
        token_ttl_ms=DAY_S * 1000,
        request_id=key,
        amount_micros=7 * CENT,
        destination="0257123456",
        journal_lines=KEEP_ALL_LINES,
    )
    return mutation_command(account_keys(TENANT, name), mutation)


def run(store: StoreConnection, commands: Iterator[Command]) -> None:
    batch: list[Command] = []
    for command in commands:
        batch.append(command)
        if len(batch) == PIPELINE:
            execute(store, batch)
            batch.clear()
    execute(store, batch)


def info(store: StoreConnection, section: str, field: str) -> int:
    lines = dict(
        line.split(":", 1) for line in store.execute([("INFO", section)])[0].decode().split("\r\n")[1:-1]
    )
    return int(lines[field])


def journal_bytes(store: StoreConnection, accounts: int) -> int:
    names = (account_keys(TENANT, subject(number)).journal for number in range(accounts))
    return sum(map(int, store.execute([("MEMORY", "USAGE", name, "SAMPLES", "0") for name in names])))


def measure(debits: int, accounts: int, uuids: bool) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="ratel-") as folder,
        EmbeddedStore(folder) as server,
        StoreConnection(server.url, timeout_ms=60_000) as store,
    ):
        store.execute([("CONFIG", "SET", "auto-aof-rewrite-percentage", "0")])  # it would shrink the file
        run(store, (opening(number) for number in range(accounts)))
        memory, journals = info(store, "memory", "used_memory"), journal_bytes(store, accounts)
        file = info(store, "persistence", "aof_current_size")
        keys = (str(uuid4()) if uuids else f"{number:08}" for number in range(debits))
        run(store, (debit(number, accounts, key) for number, key in enumerate(keys)))
        memory = info(store, "memory", "used_memory") - memory
        journals = journal_bytes(store, accounts) - journals
        file = info(store, "persistence", "aof_current_size") - file
    line, token = journals / debits, (memory - journals) / debits
    kind = "UUID, 36" if uuids else "8"
    print(
        f"| {kind} characters | {accounts:,} | {token:.0f} | {line:.0f} | {file / debits:.0f} |", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--debits", type=int, default=100_000)
    debits = parser.parse_args().debits
    print(f"{debits:,} debits, bytes for each:\n")
    print("| key | accounts | memory of the key | of the journal line | in the file |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for uuids in (False, True):
        for accounts in (1, debits // 100):
            measure(debits, accounts, uuids)


if __name__ == "__main__":
    main()
