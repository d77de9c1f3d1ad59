"""`ratel journal export`: every line in the archive exactly once, whatever the texts, whoever is killed."""

from __future__ import annotations

import fcntl
import json
import random
import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from common.storage.store import StoreConnection
from rater.accounts.mutations import mutation_command
from rater.journal.archive import (
    COLUMNS,
    ArchiveError,
    Format,
    Record,
    archive_files,
    encode_records,
    file_name,
    read_file,
    run_of,
)
from rater.journal.commands import audit, journal
from rater.journal.export import LOCK_FILE, STATE_FILE
from rater.journal.lines import Balances, BonusFigures, Line
from rater.journal.scan import BATCH_LINES
from rater.model import Account, Bucket
from rater.store import scripts
from rater.store.keys import account_keys
from tests.integration.conftest import Accounts
from tests.stored import FIGURES, entry_fields

ODD = 'a:b{c}%7B./\\"\r\n\U0001f4de,\x00'
TENANTS = ("vdf", "t/../2", ODD)
SUBJECTS = ("rif", ODD, "", "=1+1")
FORMATS = [form.value for form in Format]
PATIENCE_S = 60

KILLED = """
import os, signal, sys
from rater.journal.commands import journal
function, at, lines = sys.argv.pop(1), int(sys.argv.pop(1)), 0
def trace(frame, event, argument):
    global lines
    code = frame.f_code
    if "/rater/journal/" not in code.co_filename or function not in ("any", code.co_name):
        return trace if event == "call" else None
    if event == "line":
        lines += 1
        if lines == at:
            os.kill(os.getpid(), signal.SIGKILL)
    return trace
sys.settrace(trace)
try:
    journal()
finally:
    sys.settrace(None)
    print("traced", lines, file=sys.stderr)
"""
"""The command, killed when it comes to the n-th line of a function, or of the whole package."""


@pytest.fixture
def url(store_server: object) -> str:
    return str(store_server.url)  # type: ignore[attr-defined]


def run(url: str, folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(journal, ["export", "--store", url, "--to", str(folder), *arguments])


def run_audit(url: str, *arguments: str) -> Result:
    return CliRunner().invoke(audit, ["--store", url, *arguments])


def archived(folder: Path) -> dict[tuple[str, str], list[Line]]:
    found = defaultdict(list)
    for path in archive_files([folder]):
        for tenant, subject, line in read_file(path):
            found[tenant, subject].append(line)
    return dict(found)


def seqs(folder: Path) -> dict[tuple[str, str], list[int]]:
    if not folder.exists():
        return {}
    return {name: [line.seq for line in lines] for name, lines in archived(folder).items()}


def debit(accounts: Accounts, count: int, subject: str = "rif", journal_lines: int = 10_000) -> None:
    keys = account_keys(accounts.tenant, subject)
    mutations = [
        accounts.mutation("DebitBalance", 1, subject=subject, journal_lines=journal_lines)
        for _ in range(count)
    ]
    replies = scripts.execute(accounts.store, [mutation_command(keys, mutation) for mutation in mutations])
    assert all(reply.startswith(b"OK") for [reply] in replies)


def held(accounts: Accounts, subject: str = "rif") -> list[int]:
    return [int(line["seq"]) for line in accounts.journal(subject)]


@pytest.mark.parametrize("form", FORMATS)
def test_each_run_writes_what_is_new_by_tenant(
    store: StoreConnection, url: str, tmp_path: Path, form: str
) -> None:
    everyone = [Accounts(store, tenant) for tenant in TENANTS]
    for accounts in everyone:
        for subject in SUBJECTS:
            accounts.open(Account(subject, buckets=(Bucket(ODD, 1, -1, 2),) if subject else ()))
    first = run(url, tmp_path, "--format", form)
    assert first.exit_code == 0, first.output
    assert "12 new lines of 12 accounts, run 1" in first.stdout
    debit(everyone[0], 3)
    second = run(url, tmp_path, "--format", form)
    assert "3 new lines of 1 account, run 2" in second.stdout
    third = run(url, tmp_path, "--format", form)
    assert "0 new lines of 0 accounts: nothing to write" in third.stdout
    assert [run_of(path) for path in archive_files([tmp_path])] == [1, 1, 1, 2]
    assert seqs(tmp_path) == {(t, s): [1] for t in TENANTS for s in SUBJECTS} | {("vdf", "rif"): [1, 2, 3, 4]}
    assert run_audit(url, "--archive", str(tmp_path)).exit_code == 0


def test_a_json_record_holds_exact_texts(accounts: Accounts, url: str, tmp_path: Path) -> None:
    accounts.open(Account(ODD, 9_007_199_254_740_991))
    accounts.run("DebitBalance", amount_micros=1, subject=ODD, token=f"c:{ODD}")
    run(url, tmp_path)
    [path] = archive_files([tmp_path])
    assert path.read_bytes().isascii()
    record = json.loads(path.read_bytes().splitlines()[1])
    [_, (entry_id, _)] = accounts.store.execute([("XRANGE", account_keys("vdf", ODD).journal, "-", "+")])[0]
    assert record == {
        "tenant": "vdf",
        "subject": ODD,
        "id": entry_id.decode(),
        "seq": "2",
        "op": "DebitBalance",
        "amount": "1",
        "token": f"c:{ODD}",
        "credit": "9007199254740990",
        "sms": "0",
        "traffic": "0",
        "volume_discount": "0",
        "received": "0",
    }


texts = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.text('"\r\n,\x00;\u2028 a\U0001f4de\\', max_size=8),
    st.binary(max_size=4).map(lambda raw: raw.decode("utf-8", "surrogateescape")),
)
numbers = st.integers(-(2**53) + 1, 2**53 - 1)
balances = st.builds(Balances, numbers, numbers, numbers, numbers, numbers)
held_buckets = st.lists(st.builds(Bucket, texts, numbers.map(abs), numbers, numbers.map(abs)), max_size=3)
none = st.none()
buckets = held_buckets.map(tuple)
bonuses = st.tuples(numbers, numbers, numbers, numbers, numbers).map(lambda figures: BonusFigures(*figures))
lines = st.one_of(
    st.tuples(numbers, st.just("DebitSMS"), numbers, texts, balances, none, none, none),
    st.tuples(numbers, st.just("DebitSeconds"), numbers, texts, balances, buckets, numbers, none),
    st.tuples(
        numbers,
        st.just("AddRecievedCallSeconds"),
        numbers,
        texts,
        balances,
        none | buckets,
        none,
        none | bonuses,
    ),
).map(lambda values: Line("5-0", *values))


@pytest.mark.parametrize("form", list(Format))
@given(records=st.lists(st.builds(Record, texts, texts, lines), max_size=5))
def test_any_record_is_the_same_after_a_file(
    tmp_path_factory: pytest.TempPathFactory, form: Format, records: list[Record]
) -> None:
    path = tmp_path_factory.getbasetemp() / file_name(1, "any", form)
    parts = [encode_records([record], form, heading=not i) for i, record in enumerate(records)]
    path.write_bytes(b"".join(parts) if parts else encode_records([], form, heading=True))
    assert list(read_file(path)) == records


def test_file_names_are_safe_and_differ() -> None:
    tenants = [
        "",
        ".",
        "..",
        "a/b",
        "a%2Fb",
        "a\x00",
        ODD,
        "\U0001f4de" * 256,
        "\U0001f4de" * 255 + "x",
        "-1",
    ]
    names = [file_name(1, tenant, Format.CSV) for tenant in tenants]
    assert len(set(names)) == len(names)
    for name in names:
        assert len(name.encode()) + len(".tmp") <= 255
        assert "/" not in name
        assert run_of(Path(name)) == 1


# --- trimming ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_trimming_leaves_the_last_archived_line_and_the_audit_clean(
    accounts: Accounts, url: str, tmp_path: Path, form: str
) -> None:
    accounts.open(Account("rif"))
    accounts.open(Account("idle"))
    for total in (301, 601):
        debit(accounts, 300)
        result = run(url, tmp_path, "--trim", "--format", form)
        assert result.exit_code == 0, result.output
        assert "300 archived lines removed from the store" in result.stdout
        assert held(accounts) == [total]
        assert held(accounts, "idle") == [1]
    debit(accounts, 2)
    stretch = run_audit(url)
    assert stretch.exit_code == 0
    assert "2 accounts, 4 lines: 1 checked from the opening on, 1 from a later line on" in stretch.stdout
    whole = run_audit(url, "--archive", str(tmp_path))
    assert whole.exit_code == 0, whole.output
    assert "2 accounts, 604 lines: 2 checked from the opening on" in whole.stdout
    [second] = [path for path in archive_files([tmp_path]) if run_of(path) == 2]
    cut = run_audit(url, "--archive", str(archive_files([tmp_path])[0]))
    assert "seq 601: seq: expected 302, found 601" in cut.stdout
    assert run_audit(url, "--archive", str(second)).exit_code == 0


def test_what_was_exported_without_trimming_is_trimmed_later(
    accounts: Accounts, url: str, tmp_path: Path
) -> None:
    accounts.open(Account("rif"))
    debit(accounts, 9)
    run(url, tmp_path)
    assert len(held(accounts)) == 10
    assert "9 archived lines removed" in run(url, tmp_path, "--trim").stdout
    assert "0 archived lines removed" in run(url, tmp_path, "--trim").stdout
    assert held(accounts) == [10]


def test_the_script_trims_nothing_where_the_archived_line_is_not_in_the_store(accounts: Accounts) -> None:
    accounts.open(Account("rif"))
    debit(accounts, 5)
    keys = account_keys("vdf", "rif")
    [entries] = accounts.store.execute([("XRANGE", keys.journal, "-", "+")])
    ids = [entry_id for entry_id, _ in entries]

    def trim(entry_id: bytes, seq: int) -> object:
        sha = scripts.SCRIPTS["trim_journal"].sha
        command = ("EVALSHA", sha, 2, keys.account, keys.journal, entry_id, seq)
        return scripts.execute(accounts.store, [command])[0]

    assert trim(b"99999999999999-0", 6) == b"Kept"  # by the id alone, all lines would go
    assert trim(ids[2], 4) == b"Kept"
    assert trim(ids[2], 7) == b"Kept"
    assert held(accounts) == [1, 2, 3, 4, 5, 6]
    assert trim(ids[2], 3) == 2
    assert held(accounts) == [3, 4, 5, 6]
    accounts.store.execute([("DEL", keys.account)])
    assert trim(ids[4], 5) == b"Kept"


def test_an_archived_line_that_was_changed_is_found(accounts: Accounts, url: str, tmp_path: Path) -> None:
    accounts.open(Account("rif"))
    debit(accounts, 9)
    run(url, tmp_path)
    [path] = archive_files([tmp_path])
    text = path.read_text()
    path.write_text(text.replace('"credit":"-3000000"', '"credit":"-3000001"'))
    found = run_audit(url, "--archive", str(path))
    assert found.exit_code == 1
    assert "seq 4: archived credit: expected -3.000001, found -3" in found.stdout
    run(url, tmp_path, "--trim")
    found = run_audit(url, "--archive", str(path))
    assert "seq 4: credit: expected -3, found -3.000001" in found.stdout
    assert "seq 5: credit: expected -4.000001, found -4" in found.stdout
    path.write_text(text[:-5])
    found = run_audit(url, "--archive", str(path))
    assert found.exit_code == 1
    assert f"{path}: record 10: is cut off" in found.stderr


def test_an_account_that_is_only_in_the_archives_is_found(
    accounts: Accounts, url: str, tmp_path: Path
) -> None:
    accounts.open(Account("rif"))
    run(url, tmp_path)
    keys = account_keys("vdf", "rif")
    accounts.store.execute([("DEL", keys.account, keys.journal)])
    assert (
        "subject 'rif': account: expected one in the store, found none"
        in run_audit(url, "--archive", str(tmp_path)).stdout
    )
    assert run_audit(url, "--archive", str(tmp_path), "--tenant", "other").exit_code == 0


# --- what can't be archived -------------------------------------------------------------------------


def test_lines_that_were_dropped_before_the_export_are_said_to_be_lost(
    accounts: Accounts, url: str, tmp_path: Path
) -> None:
    accounts.open(Account("rif"))
    run(url, tmp_path)
    debit(accounts, BATCH_LINES * 2, journal_lines=50)
    first = held(accounts)[0]
    assert first > 2
    result = run(url, tmp_path)
    assert result.exit_code == 1
    assert f"tenant 'vdf' subject 'rif': seq 2 to {first - 1} ({first - 2} lines) LOST" in result.stderr
    assert seqs(tmp_path) == {("vdf", "rif"): [1, *held(accounts)]}
    debit(accounts, 1)
    assert run(url, tmp_path).exit_code == 0
    run(url, tmp_path, "--trim")  # now only the archive has the place of the gap
    assert f"seq {first}: seq: expected 2, found {first}" in run_audit(url, "--archive", str(tmp_path)).stdout
    another = run(url, tmp_path / "another")
    assert another.exit_code == 1
    assert "seq 1 to " in another.stderr


def test_a_store_that_was_set_back_is_a_conflict_and_nothing_is_archived_or_trimmed(
    accounts: Accounts, url: str, tmp_path: Path
) -> None:
    accounts.open(Account("rif"))
    accounts.open(Account("fine"))
    debit(accounts, 5)
    run(url, tmp_path)
    keys = account_keys("vdf", "rif")
    before = seqs(tmp_path)

    def conflict(*expected: str) -> None:
        result = run(url, tmp_path, "--trim")
        assert result.exit_code == 1
        for text in expected:
            assert text in result.stderr
        assert seqs(tmp_path) == before
        assert run_audit(url, "--archive", str(tmp_path)).exit_code == 1

    [entries] = accounts.store.execute([("XRANGE", keys.journal, "-", "+")])
    accounts.store.execute([("XDEL", keys.journal, entries[-1][0])])
    accounts.tamper(seq=5)
    conflict("the archive's last line, seq 6, is missing in the store, older ones are not")
    debit(accounts, 1)
    conflict("the archive's last line, seq 6, is missing in the store, older ones are not")
    accounts.store.execute([("XTRIM", keys.journal, "MAXLEN", 0)])
    conflict("the archive ends with seq 6, the store has no line at all")
    accounts.store.execute([("DEL", keys.account, keys.journal)])
    accounts.open(Account("rif"))
    conflict("seq 1 comes after seq 6")


def test_a_damaged_line_stops_the_account_and_is_kept(accounts: Accounts, url: str, tmp_path: Path) -> None:
    accounts.open(Account("rif"))
    debit(accounts, 2)
    keys = account_keys("vdf", "rif")
    damaged = {"op": b"Steal", "amount": b"0", "token": b""} | dict.fromkeys(FIGURES, b"4")
    accounts.store.execute([("XADD", keys.journal, "*", *entry_fields(damaged))])
    result = run(url, tmp_path, "--trim")
    assert result.exit_code == 1
    assert "op: expected an operation, found 'Steal'" in result.stderr
    assert seqs(tmp_path) == {("vdf", "rif"): [1, 2, 3]}
    assert held(accounts) == [3, 4]


def test_a_folder_that_is_in_use_or_no_archive_is_refused(
    accounts: Accounts, url: str, tmp_path: Path
) -> None:
    accounts.open(Account("rif"))
    with (tmp_path / LOCK_FILE).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = run(url, tmp_path)
    assert result.exit_code == 1
    assert "another export is at work there" in result.stderr
    (tmp_path / STATE_FILE).write_bytes(b"x" * 5000)
    result = run(url, tmp_path)
    assert result.exit_code == 1
    assert "state.sqlite: file is not a database" in result.stderr


def test_a_store_that_is_away_has_its_own_exit_code(tmp_path: Path) -> None:
    assert run(f"unix://{tmp_path}/none.sock", tmp_path / "to").exit_code == 3


def test_files_that_are_no_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.txt"
    path.touch()
    with pytest.raises(ArchiveError, match="not the name of an archive file"):
        archive_files([path])
    assert archive_files([tmp_path]) == []
    good = encode_records([], Format.CSV, heading=True).decode()
    for text, expected in (
        ("", "expected the columns"),
        (good + "a,b\r\n", f"expected {len(COLUMNS)} cells, found 2"),
        (good + ",".join("x" * len(COLUMNS)) + "\r\n", "expected <ms>-<n>, found x"),
    ):
        path = tmp_path / file_name(1, "t", Format.CSV)
        path.write_text(text, newline="")
        with pytest.raises(ArchiveError, match=expected):
            list(read_file(path))
    for text, expected in (
        ("[]\n", "an object"),
        ("{}\n", "'tenant'"),
        ("{\n", "record 1"),
        ("{}", "cut off"),
    ):
        path = tmp_path / file_name(1, "t", Format.JSONL)
        path.write_text(text)
        with pytest.raises(ArchiveError, match=expected):
            list(read_file(path))


# --- interrupted ------------------------------------------------------------------------------------


def test_a_lost_state_is_made_anew_from_the_files(accounts: Accounts, url: str, tmp_path: Path) -> None:
    accounts.open(Account("rif"))
    for _ in range(3):
        debit(accounts, 3)
        run(url, tmp_path)
    (tmp_path / STATE_FILE).unlink()
    result = run(url, tmp_path)
    assert result.exit_code == 0
    assert "of an interrupted run, in the archive as well: 10 lines" in result.stdout
    debit(accounts, 1)
    run(url, tmp_path)
    assert seqs(tmp_path) == {("vdf", "rif"): list(range(1, 12))}


def test_a_file_that_was_archived_twice_is_refused(accounts: Accounts, url: str, tmp_path: Path) -> None:
    accounts.open(Account("rif"))
    run(url, tmp_path)
    [path] = archive_files([tmp_path])
    path.with_name(file_name(2, "copy", Format.JSONL)).write_bytes(path.read_bytes())
    result = run(url, tmp_path)
    assert result.exit_code == 1
    assert "subject 'rif': seq 1 is archived already" in result.stderr


@pytest.mark.timeout(300)
def test_killed_at_any_point_and_run_again_there_is_no_gap_and_no_duplicate(
    store: StoreConnection, url: str, tmp_path: Path
) -> None:
    seed = random.Random(1)
    everyone = [Accounts(store, tenant) for tenant in TENANTS]
    wanted: dict[tuple[str, str], int] = {}

    def work() -> None:
        for accounts in everyone:
            for subject in SUBJECTS:
                if (accounts.tenant, subject) not in wanted:
                    accounts.open(Account(subject))
                    wanted[accounts.tenant, subject] = 1
                more = seed.choice((0, 1, 5))
                if accounts.tenant == ODD and subject == "rif":
                    more = BATCH_LINES
                debit(accounts, more, subject)
                wanted[accounts.tenant, subject] += more

    def export(function: str, at: int, folder: Path, *, trim: bool) -> subprocess.CompletedProcess[str]:
        form = seed.choice(FORMATS)  # which may change between runs
        arguments = ["export", "--store", url, "--to", str(folder), "--format", form, *["--trim"][:trim]]
        return subprocess.run(
            [sys.executable, "-c", KILLED, function, str(at), *arguments],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    work()
    measured = export("any", -1, tmp_path / "measured", trim=False)
    assert measured.returncode == 0, measured.stderr
    length = int(measured.stderr.split()[-1])
    # Most lines only gather; where files get their names, and where that is made good, there are few.
    points = [("any", seed.randrange(1, length)) for _ in range(4)]
    points += [("finish", at) for at in range(2, 24, 2)]
    points += [("commit", 1), ("commit", 2), ("_trim", 3), ("trimmed", 2)]
    points += [("_recover", at) for at in (4, 9, 20, 60)]
    seed.shuffle(points)
    folder = tmp_path / "archive"
    killed = 0
    for number, (function, at) in enumerate(points):
        work()
        result = export(function, at, folder, trim=function.startswith(("_trim", "trim")) or number % 3 == 0)
        assert result.returncode in (0, -signal.SIGKILL), result.stderr
        killed += result.returncode == -signal.SIGKILL
        for of_one in seqs(folder).values():
            assert of_one == list(range(1, len(of_one) + 1))
    assert killed >= len(points) // 2
    last = export("any", -1, folder, trim=True)
    assert last.returncode == 0, last.stderr
    assert not list(folder.glob("*.tmp"))
    assert seqs(folder) == {name: list(range(1, end + 1)) for name, end in wanted.items()}
    for accounts in everyone:
        assert all(held(accounts, subject) == [wanted[accounts.tenant, subject]] for subject in SUBJECTS)
    assert run_audit(url, "--archive", str(folder)).exit_code == 0
    assert run_audit(url).exit_code == 0
