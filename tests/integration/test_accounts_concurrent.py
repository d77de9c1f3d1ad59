"""Many connections at one account at once: nothing is lost or doubled, and the journal adds up."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from threading import Barrier
from typing import Any

from common.storage.store import StoreConnection
from rater.accounts.mutation import JOURNAL_LINES, MutationResult
from rater.accounts.mutations import mutation_command, parse_mutation_reply
from rater.model import Account
from rater.store import scripts
from rater.store.keys import account_keys

WORKERS = 32
DEBITS_EACH = 100
BATCH = 10
TIMEOUT_MS = 60_000


def test_concurrent_debits_of_one_account_end_exact_and_the_journal_adds_up(
    accounts: Any, store_server: Any
) -> None:
    start = 10**12
    accounts.open(Account("rif", credit_micros=start))
    keys = account_keys("vdf", "rif")
    barrier = Barrier(WORKERS)
    amounts = {
        worker: [random.Random(worker).randint(-1000, 3000) for _ in range(DEBITS_EACH)]
        for worker in range(WORKERS)
    }

    def work(worker: int) -> list[int]:
        """Every batch is sent twice, as after a lost reply."""
        results = []
        with StoreConnection(store_server.url, timeout_ms=TIMEOUT_MS) as store:
            barrier.wait()
            for at in range(0, DEBITS_EACH, BATCH):
                mutations = [
                    accounts.mutation("DebitBalance", amount_micros=amount, token=f"w{worker}.{at + i}")
                    for i, amount in enumerate(amounts[worker][at : at + BATCH])
                ]
                commands = [mutation_command(keys, mutation) for mutation in mutations]
                first = scripts.execute(store, commands)
                again = scripts.execute(store, commands)
                for mutation, [one], [two] in zip(mutations, first, again, strict=True):
                    result = parse_mutation_reply(mutation, one)
                    assert isinstance(result, MutationResult)
                    assert parse_mutation_reply(mutation, two) == MutationResult(result.value_micros, True)
                    results.append(result.value_micros)
        return results

    with ThreadPoolExecutor(WORKERS) as pool:
        results = [value for values in pool.map(work, range(WORKERS)) for value in values]
    total = sum(map(sum, amounts.values()))
    assert accounts.read().credit_micros == start - total
    lines = accounts.journal()
    assert [int(line["seq"]) for line in lines] == list(range(1, WORKERS * DEBITS_EACH + 2))
    for before, after in pairwise(lines):
        assert int(after["credit"]) == int(before["credit"]) - int(after["amount"])
    assert sorted(results) == sorted(int(line["credit"]) for line in lines[1:])
    assert len({line["token"] for line in lines[1:]}) == WORKERS * DEBITS_EACH


def test_a_journal_keeps_about_as_many_lines_as_it_was_told_to(accounts: Any) -> None:
    accounts.open(Account("rif"))
    keys = account_keys("vdf", "rif")
    for _ in range(10):
        mutations = [accounts.mutation("DebitBalance", journal_lines=200) for _ in range(100)]
        scripts.execute(accounts.store, [mutation_command(keys, mutation) for mutation in mutations])
    lines = accounts.journal()
    assert 200 <= len(lines) <= 400, "trimming takes whole nodes of the stream, of 100 lines"
    assert int(lines[-1]["seq"]) == 1001
    assert JOURNAL_LINES > 1000
