"""`ratel audit` against a real store: silent about what the scripts did, loud about every other hand."""

from __future__ import annotations

import json
import os
import pty
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.storage.store import Command, Reply, StoreConnection
from rater.accounts.mutations import mutation_command
from rater.accounts.opening import open_command
from rater.journal.audit import Result as AccountResult
from rater.journal.audit import Selection, Summary
from rater.journal.audit import audit as audit_store
from rater.journal.chain import KEY_TTL_MS
from rater.journal.commands import audit, journal
from rater.journal.scan import BATCH_ACCOUNTS, BATCH_LINES
from rater.model import Account, Bonus, Bucket, Plan
from rater.store import scripts
from rater.store.keys import account_keys
from tests.integration.conftest import Accounts
from tests.integration.test_accounts_model import ACCOUNTS, MUTATIONS, SUBJECTS, mutation_of
from tests.stored import account_fields, entry_fields, line_fields

ODD = 'a:b{c}%7B*?[x]\\"\n\U0001f4de,'
S = 1_000_000
PATIENCE_S = 90


def run(url: str, *arguments: str) -> Result:
    return CliRunner().invoke(audit, ["--store", url, *arguments])


def findings(url: str, *arguments: str) -> list[dict[str, Any]]:
    """The differences, each as reported; the exit code must fit."""
    result = run(url, "--json", *arguments)
    *found, last = map(json.loads, result.stdout.splitlines())
    assert last["summary"]["findings"] == len(found)
    assert result.exit_code == (1 if found else 0), result.output
    return found


def places(found: list[dict[str, Any]]) -> list[tuple[int | None, str]]:
    return [(finding["seq"], finding["field"]) for finding in found]


@pytest.fixture
def url(store_server: Any) -> str:
    return str(store_server.url)


@pytest.fixture
def worked(accounts: Accounts) -> Accounts:
    """An account on which every operation was carried out: 12 lines."""
    bucket = Bucket("d", 100 * S, 1, 500_000_000)
    plan = Plan("p", 9 * S, 8 * S, 10 * S, Bonus(S, S, S, bucket), (bucket,))
    budgets = Account("rif", 1000 * S, 20 * S, plan="p", buckets=(bucket,))
    accounts.open(budgets)
    accounts.run("DebitBalance", 1.000001)
    accounts.run("DebitBalance", -2, token="c:key")
    accounts.run("DebitSMS", 3)
    accounts.run("DebitSeconds", 7.5, destination="1", matches=(("d", 1),))
    accounts.run("DebitSeconds", -1, destination="1", matches=(("d", 1),))
    accounts.run("AddVolumeDiscountSeconds", 5)
    accounts.run("ResetVolumeDiscountSeconds")
    accounts.run("AddRecievedCallSeconds", 25, plan_id="p", plan=plan)
    accounts.run("ResetUserBudget", plan_id="p", plan=plan)
    accounts.open(budgets, replace=True)
    accounts.run("DebitBalance", 5)
    return accounts


def rewrite(
    accounts: Accounts, change: Callable[[list[tuple[bytes, dict[str, bytes]]]], None], subject: str = "rif"
) -> None:
    """Write a journal anew as `change` leaves it: a stream has no other way to be forged."""
    key = account_keys(accounts.tenant, subject).journal
    [entries] = accounts.store.execute([("XRANGE", key, "-", "+")])
    lines = [(name, line_fields(flat)) for name, flat in entries]
    change(lines)
    commands: list[Any] = [("DEL", key)]
    for number, (name, fields) in enumerate(lines):
        words = entry_fields(fields)
        commands.append(("XADD", key, b"%b-%d" % (name.partition(b"-")[0], number), *words))
    assert not [reply for reply in accounts.store.execute(commands) if isinstance(reply, Exception)]


def test_what_the_scripts_did_is_without_difference(worked: Accounts, url: str) -> None:
    result = run(url)
    assert result.exit_code == 0, result.output
    assert result.stdout == (
        "1 account, 12 lines: 1 checked from the opening on, "
        "0 from a later line on, because what came before is trimmed\nno differences\n"
    )


def test_an_empty_store_is_without_difference(accounts: Accounts, url: str) -> None:
    assert findings(url) == []


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(start=ACCOUNTS, steps=st.lists(MUTATIONS, min_size=1, max_size=25))
def test_any_sequence_of_mutations_is_without_difference(
    store: StoreConnection, start: Account, steps: list[dict[str, Any]]
) -> None:
    subject = f"audit{next(SUBJECTS)}"
    keys = account_keys("m", subject)
    commands = [open_command(keys, start)]
    commands += [mutation_command(keys, mutation_of(values, subject, start.plan)) for values in steps]
    scripts.execute(store, commands)
    results: list[AccountResult] = []
    audit_store(
        store,
        Selection("m", subject),
        None,
        key_ttl_ms=KEY_TTL_MS,
        report=results.append,
        progress=lambda passed, total: None,
    )
    [result] = results
    assert result.findings == []
    assert result.whole


# --- another hand -------------------------------------------------------------------------------------


def test_a_changed_amount_is_found_to_the_micro_cent(worked: Accounts, url: str) -> None:
    rewrite(worked, lambda lines: lines[1][1].update({"amount": b"1000000"}))
    [finding] = findings(url)
    assert finding == {
        "tenant": "vdf",
        "subject": "rif",
        "seq": 2,
        "field": "credit",
        "expected": "999",
        "found": "998.999999",
    }
    text = run(url).stdout.splitlines()[0]
    assert text == "tenant 'vdf' subject 'rif' seq 2: credit: expected 999, found 998.999999"


def test_a_removed_line_is_found(worked: Accounts, url: str) -> None:
    rewrite(worked, lambda lines: lines.pop(3))
    assert places(findings(url)) == [(5, "seq")]


def test_a_removed_last_line_is_found(worked: Accounts, url: str) -> None:
    rewrite(worked, lambda lines: lines.pop())
    assert places(findings(url)) == [(11, "account seq"), (11, "account credit")]


def test_a_doubled_line_is_found(worked: Accounts, url: str) -> None:
    rewrite(worked, lambda lines: lines.insert(3, lines[2]))
    assert places(findings(url)) == [(3, "seq"), (3, "token")]


def test_a_request_that_was_carried_out_twice_is_found(worked: Accounts, url: str) -> None:
    keys = account_keys("vdf", "rif")
    worked.store.execute([("DEL", keys.token_prefix + b"c:key")])
    worked.run("DebitBalance", -2, token="c:key")
    assert places(findings(url)) == [(13, "token")]


@pytest.mark.parametrize("field", ["credit", "sms", "traffic", "volume_discount", "received", "seq"])
def test_a_figure_changed_in_the_account_is_found(worked: Accounts, url: str, field: str) -> None:
    [value] = worked.store.execute([("GET", account_keys("vdf", "rif").account)])
    worked.tamper(**{field: int(account_fields(value)[field]) + 1})
    assert places(findings(url)) == [(12, f"account {field}")]


def test_a_bucket_changed_in_the_account_is_found(worked: Accounts, url: str) -> None:
    key = account_keys("vdf", "rif").account
    seconds_at = 72 + len("p")
    worked.store.execute([("SETRANGE", key, seconds_at, struct.pack("<q", 100_000_001))])
    assert places(findings(url)) == [(12, "account buckets")]
    worked.store.execute([("SETRANGE", key, seconds_at, struct.pack("<q", -1))])
    assert places(findings(url)) == [(None, "account bucket 0")]


@pytest.mark.parametrize(
    ("at", "value", "field"),
    [
        (0, b"R", "value"),
        (7, b"2", "value"),
        (16, struct.pack("<q", 2**53), "credit"),
        (67, b"\2", "value"),
        (68, b"\2", "value"),
        (72, b"\xff", "value"),
        (73 + 8, struct.pack("<q", -(2**53)), "bucket 0"),
        (73 + 16, struct.pack("<q", -1), "bucket 0"),
        (73 + 24, b"\2", "value"),
        (73 + 29, b"x", "value"),
    ],
)
def test_a_damaged_account_is_found(worked: Accounts, url: str, at: int, value: bytes, field: str) -> None:
    key = account_keys("vdf", "rif").account
    if value == b"R":
        worked.store.execute([("SET", key, b"x" * 200)])
    else:
        worked.store.execute([("SETRANGE", key, at, value)])
    assert places(findings(url)) == [(None, f"account {field}")]


def test_a_bucket_changed_in_a_line_is_found(worked: Accounts, url: str) -> None:
    def change(lines: list[tuple[bytes, dict[str, bytes]]]) -> None:
        buckets = lines[4][1]["buckets"]
        old = struct.pack("<q", 92_500_000)
        assert buckets.count(old) == 1
        lines[4][1]["buckets"] = buckets.replace(old, struct.pack("<q", 92_500_001))

    rewrite(worked, change)
    assert places(findings(url)) == [(5, "buckets"), (6, "buckets")]


def test_a_changed_seq_is_found(worked: Accounts, url: str) -> None:
    rewrite(worked, lambda lines: lines[5][1].update({"seq": b"60"}))
    assert places(findings(url)) == [(60, "seq"), (7, "seq")]


def test_a_doubled_token_is_found(worked: Accounts, url: str) -> None:
    rewrite(worked, lambda lines: lines[5][1].update({"token": lines[4][1]["token"]}))
    assert places(findings(url)) == [(6, "token")]


def test_a_line_that_is_none_is_found(worked: Accounts, url: str) -> None:
    rewrite(worked, lambda lines: lines[5][1].update({"amount": b"\xff1"}))
    assert places(findings(url)) == [(6, "amount")]


def test_accounts_without_journal_and_journals_without_account_are_found(worked: Accounts, url: str) -> None:
    worked.open(Account("other"))
    rif, other = (account_keys("vdf", name) for name in ("rif", "other"))
    worked.store.execute([("DEL", rif.journal), ("DEL", other.account)])
    found = sorted((f["subject"], f["field"], f["found"]) for f in findings(url))
    assert found == [("other", "account", "none"), ("rif", "journal", "none")]


def test_keys_of_another_type_are_found(worked: Accounts, url: str) -> None:
    worked.open(Account("other"))
    rif, other = (account_keys("vdf", name) for name in ("rif", "other"))
    damage = [("SET", rif.journal, "x"), ("DEL", other.account), ("HSET", other.account, "seq", "1")]
    worked.store.execute(damage)
    found = sorted((f["subject"], f["field"], f["found"]) for f in findings(url))
    another = "a key of another type"
    assert found == [("other", "account", another), ("rif", "journal", another)]


@pytest.mark.parametrize("text", ["", "x", "RATELac1"])
def test_a_text_that_is_no_account_is_found(accounts: Accounts, url: str, text: str) -> None:
    accounts.store.execute([("SET", account_keys("vdf", "stray").account, text)])
    found = [(f["subject"], f["field"], f["found"]) for f in findings(url)]
    assert found == [("stray", "journal", "none"), ("stray", "account value", repr(text.encode()))]


# --- which accounts ---------------------------------------------------------------------------------


def test_a_tenant_a_subject_and_an_account_can_be_chosen(store: StoreConnection, url: str) -> None:
    for tenant in ("t", "t2", ODD):
        for subject in ("s", "s2", ODD):
            accounts = Accounts(store, tenant)
            accounts.open(Account(subject))
            accounts.tamper(subject, sms=1)
    everything = {(f["tenant"], f["subject"]) for f in findings(url)}
    assert everything == {(t, s) for t in ("t", "t2", ODD) for s in ("s", "s2", ODD)}
    for name in ("t", ODD):
        assert {(f["tenant"], f["subject"]) for f in findings(url, "--tenant", name)} == {
            (name, s) for s in ("s", "s2", ODD)
        }
        of_subject = findings(url, "--subject", "s" if name == "t" else name)
        assert [f["tenant"] for f in of_subject].count(ODD) == 1
        assert len(of_subject) == 3
        assert len(findings(url, "--tenant", name, "--subject", ODD)) == 1


def test_an_account_of_which_there_is_no_trace_is_an_error(worked: Accounts, url: str) -> None:
    result = run(url, "--tenant", "vdf", "--subject", "nobody")
    assert result.exit_code == 1
    assert "there is no trace of an account of tenant 'vdf', subject 'nobody'" in result.stderr


def test_many_accounts_and_long_journals_are_all_checked(accounts: Accounts, url: str) -> None:
    for number in range(BATCH_ACCOUNTS * 2 + 1):
        accounts.open(Account(f"s{number}"))
    keys = account_keys("vdf", "s7")
    length = BATCH_LINES * 6
    scripts.execute(
        accounts.store,
        [mutation_command(keys, accounts.mutation("DebitBalance", 1)) for _ in range(length - 1)],
    )
    lengths = {BATCH_LINES - 1: "s8", BATCH_LINES: "s9", BATCH_LINES + 1: "s10"}
    for lines, subject in lengths.items():  # at and around the end of a page
        to = account_keys("vdf", subject)
        mutations = [accounts.mutation("DebitSMS", -1) for _ in range(lines - 1)]
        scripts.execute(accounts.store, [mutation_command(to, mutation) for mutation in mutations])
    last = json.loads(run(url, "--json").stdout.splitlines()[-1])["summary"]
    others = BATCH_ACCOUNTS * 2 + 1 - 4
    count = others + 4
    assert last == Summary(count, others + length + sum(lengths), count, 0, 0)._asdict()
    accounts.tamper("s7", credit=1)
    assert places(findings(url)) == [(length, "account credit")]


def test_a_store_that_is_away_has_its_own_exit_code(tmp_path: Path) -> None:
    result = run(f"unix://{tmp_path}/none.sock")
    assert result.exit_code == 3
    assert "the store is not available" in result.stderr
    assert run("nonsense").exit_code == 2


def test_a_terminal_gets_a_bar_and_a_file_all_differences(worked: Accounts, url: str, tmp_path: Path) -> None:
    worked.tamper(sms=1)
    screen, terminal = pty.openpty()
    code = "from rater.journal.commands import audit; audit()"
    with (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", code, "--store", url], stdout=out, stderr=terminal, env=os.environ
        )
        os.close(terminal)
        shown = b""
        while True:
            try:
                part = os.read(screen, 4096)
            except OSError:  # EIO: the other end is closed
                break
            if not part:
                break
            shown += part
        assert process.wait(PATIENCE_S) == 1
    os.close(screen)
    assert b"accounts" in shown
    assert "account sms" in (tmp_path / "out").read_text()


# --- while the cluster works ------------------------------------------------------------------------


class TrimmedBetween(StoreConnection):
    """A store where somebody trims a journal to its last lines after its first page was read."""

    def __init__(self, url: str, key: bytes) -> None:
        super().__init__(url, timeout_ms=60_000)
        self.key = key
        self.pages = 0

    def execute(self, commands: Sequence[Command]) -> list[Reply]:
        replies = super().execute(commands)
        if any(command[:2] == ("XRANGE", self.key) for command in commands):
            self.pages += 1
            if self.pages == 1:
                super().execute([("XTRIM", self.key, "MAXLEN", 10)])
        return replies


def test_a_journal_that_is_trimmed_while_it_is_read_is_read_anew(accounts: Accounts, url: str) -> None:
    accounts.open(Account("rif"))
    keys = account_keys("vdf", "rif")
    debits = [accounts.mutation("DebitBalance", 1) for _ in range(BATCH_LINES * 2)]
    scripts.execute(accounts.store, [mutation_command(keys, debit) for debit in debits])
    results: list[AccountResult] = []
    with TrimmedBetween(url, keys.journal) as store:
        audit_store(
            store,
            Selection(),
            None,
            key_ttl_ms=KEY_TTL_MS,
            report=results.append,
            progress=lambda passed, total: None,
        )
    assert store.pages == 3
    [result] = results
    assert result.findings == []
    assert (result.lines, result.whole) == (10, False)


def test_an_audit_under_load_has_no_false_alarm(accounts: Accounts, url: str, tmp_path: Path) -> None:
    """Journals get longer than a page, and are trimmed by their bound and by exports all the while."""
    subjects = [f"s{number}" for number in range(4)]
    for subject in subjects:
        accounts.open(Account(subject, credit_micros=10**12))
    tokens = iter(range(10**9))
    stop = threading.Event()
    lock = threading.Lock()

    def work(worker: int) -> int:
        done = 0
        with StoreConnection(url, timeout_ms=60_000) as store:
            while not stop.is_set():
                commands = []
                for number in range(20):
                    with lock:
                        token = f"g:{next(tokens)}"
                    subject = subjects[(worker + number) % len(subjects)]
                    bound = 600 if subject in ("s0", "s1") else 10_000
                    mutation = accounts.mutation(
                        "DebitBalance", 1, subject=subject, token=token, journal_lines=bound
                    )
                    commands.append(mutation_command(account_keys("vdf", subject), mutation))
                replies = scripts.execute(store, commands)
                done += sum(reply.startswith(b"OK") for [reply] in replies)
        return done

    with ThreadPoolExecutor(2) as pool:
        workers = [pool.submit(work, worker) for worker in range(2)]
        try:
            for number in range(12):
                assert findings(url) == []
                if number % 3 == 2:
                    export = ["export", "--store", url, "--to", str(tmp_path), "--trim"]
                    result = CliRunner().invoke(journal, export)
                    assert result.exit_code in (0, 1), result.output  # lines may be lost at this bound
        finally:
            stop.set()
        done = sum(worker.result(PATIENCE_S) for worker in workers)
    assert findings(url) == []
    [*states] = accounts.store.execute([("GET", account_keys("vdf", s).account) for s in subjects])
    assert sum(int(account_fields(state)["seq"]) for state in states) == done + len(subjects)
