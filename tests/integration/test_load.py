"""`ratel load` against a real store: versions, conflicts, accounts, and nothing at all on errors."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
import time
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import StoreUnavailable
from common.storage.durability import Durability
from common.storage.embedded_store import EmbeddedStore
from common.storage.store import StoreConnection
from rater.accounts.mutations import parse_account, read_command
from rater.loader.command import load
from rater.loader.load import LoadOptions, LoadResult, load_paths, wait_for_raters
from rater.model import Account, Destination, Plan, Tariff
from rater.store.keys import RATERS, TARIFF_EPOCH, account_keys, tariff_chunk_key
from rater.tariffs.store import (
    Active,
    publish,
    read_active,
    read_metadata,
    read_version,
)
from tests.stored import with_figures
from tests.unit.tariff_sample import BUDGETS, DESTINATIONS, PLANS, RATES, sample_files

HOSTILE = 'a:b{c}%7B"\n\U0001f4de'
CLEAN = "dry run: no errors; nothing was written"


def dump(store: StoreConnection) -> dict[bytes, Any]:
    """Everything in the store."""
    [keys] = store.execute([("KEYS", "*")])
    return {key: store.execute([("DUMP", key)])[0] for key in sorted(keys)}


def account(store: StoreConnection, subject: str, tenant: str = "vdf") -> Account | None:
    [[value]] = store.execute([read_command([account_keys(tenant, subject).account])])
    return parse_account(subject, value)


def write(folder: Path, files: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value))
    return folder


class Loader:
    """Runs the command in this process."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder

    def __call__(self, files: dict[str, Any], *options: str) -> Result:
        return self.run(str(write(self.folder, files)), *options)

    def run(self, *words: str, url: str | None = None) -> Result:
        result = CliRunner().invoke(load, [*words, "--store", url or self.url])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result


@pytest.fixture
def loader(store: StoreConnection, store_server: EmbeddedStore, tmp_path: Path) -> Loader:
    return Loader(store_server.url, tmp_path / "tariff")


def tariff(tenant: str = "vdf", mark: int = 0) -> Tariff:
    return Tariff(tenant, destinations=(Destination("net", (str(mark),)),))


# --- the command ----------------------------------------------------------------------------------------


def test_a_load_publishes_a_version_and_opens_accounts(loader: Loader, store: StoreConnection) -> None:
    result = loader(sample_files())
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "tenant 'vdf': version 1: 1 rate, 2 destinations, 1 plan",
        "tenant 'vdf': accounts: 1 created, 0 kept, 0 reset",
        "no raters are running: they pick it up when they start",
    ]
    assert read_active(store) == Active(1, {"vdf": 1})
    tariff = read_version(store, "vdf", 1)
    assert [rate.prefix for rate in tariff.rates] == ["0256"]
    assert account(store, "rif") is not None
    metadata = read_metadata(store, "vdf", 1)
    assert metadata.keys() == {
        "format", "created", "sources", "rates", "destinations", "plans", "chunks", "sha256",
        "index_chunks", "index_sha256",
    }  # fmt: skip
    assert metadata["sources"] == "tariff"


def test_the_sample_tariff_loads_by_itself_and_file_by_file(loader: Loader, store: StoreConnection) -> None:
    folder = Path(__file__).resolve().parents[2] / "deploy" / "sample-tariff"
    for words in ([str(folder)], *([str(file)] for file in sorted(folder.glob("*.json")))):
        result = loader.run(*words)
        assert result.exit_code == 0, result.output
        assert "warning" not in result.output
    assert read_active(store).versions == {"vdf": 4}  # the file of budgets publishes nothing
    assert read_version(store, "vdf", 4) == read_version(store, "vdf", 1)


def test_names_with_any_character_are_stored_and_found_exactly(
    loader: Loader, store: StoreConnection
) -> None:
    files = sample_files()
    files[RATES][0] |= {"CstmId": HOSTILE, "Subject": HOSTILE, "DestinationPrefix": HOSTILE}
    files[BUDGETS][0] |= {"Id": HOSTILE, "TariffPlanId": HOSTILE}
    files[PLANS][0]["Id"] = HOSTILE
    result = loader(files)
    assert result.exit_code == 0, result.output
    assert read_active(store).versions == {HOSTILE: 1}
    found = read_version(store, HOSTILE, 1)
    assert (found.tenant, found.rates[0].subject, found.rates[0].prefix) == (HOSTILE,) * 3
    opened = account(store, HOSTILE, HOSTILE)
    assert opened is not None
    assert (opened.subject, opened.plan) == (HOSTILE, HOSTILE)
    assert result.stdout.isascii() or HOSTILE not in result.stdout  # escaped, so it can't break lines
    assert len(result.stdout.splitlines()) == 3


def test_an_error_anywhere_changes_nothing(loader: Loader, store: StoreConnection) -> None:
    assert loader(sample_files()).exit_code == 0
    before = dump(store)
    files = sample_files()
    files[RATES][0]["DestinationPrefix"] = "0999"
    files[BUDGETS].append({"Id": "new", "Type": "wrong"})
    result = loader(files, "--reset-balances")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "error: user_budgets.json[1].Type (line 1): expected 'prepaid' or 'postpaid', found the text 'wrong'",
        "error: 1 error in the files: nothing was loaded",
    ]
    assert result.stdout == ""
    assert dump(store) == before


def test_a_dry_run_changes_nothing_and_reports_everything(loader: Loader, store: StoreConnection) -> None:
    files = sample_files()
    del files[RATES][0]["ActivationPeriods"][0]["Intervals"][1]
    result = loader(files, "--dry-run", "--reset-balances")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "tenant 'vdf': would be a new version: 1 rate, 2 destinations, 1 plan",
        "tenant 'vdf': 1 account in the files",
        "1 warning",
        CLEAN,
    ]
    assert "no interval covers Mon–Fri 18:00–24:00" in result.stderr
    assert dump(store) == {}


def test_a_dry_run_that_needs_no_store_does_not_ask_for_one(tmp_path: Path) -> None:
    loader = Loader(f"unix://{tmp_path}/nowhere.sock", tmp_path / "tariff")
    result = loader(sample_files(), "--dry-run")
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, CLEAN)
    assert "not checked" not in result.output


def test_a_dry_run_says_what_it_could_not_check_without_a_store(tmp_path: Path) -> None:
    loader = Loader(f"unix://{tmp_path}/nowhere.sock", tmp_path / "tariff")
    result = loader({BUDGETS: sample_files()[BUDGETS]}, "--dry-run", "--tenant", "vdf")
    assert result.exit_code == 0
    assert "not checked against the active tariff: the store is not available" in result.stdout


def test_a_dry_run_looks_at_the_active_tariff(loader: Loader) -> None:
    assert loader(sample_files()).exit_code == 0
    assert loader({BUDGETS: sample_files()[BUDGETS]}, "--dry-run").exit_code == 0
    budget = {**sample_files()[BUDGETS][0], "TariffPlanId": "gone"}
    result = loader({BUDGETS: [budget]}, "--dry-run")
    assert result.exit_code == 1
    assert "TariffPlanId 'gone' is not in this load or the active tariff" in result.stderr


def test_exit_codes_of_usage_and_store(loader: Loader, tmp_path: Path) -> None:
    folder = str(write(tmp_path / "tariff", sample_files()))
    assert loader.run(str(tmp_path / "nothing-here")).exit_code == 2
    assert loader.run().exit_code == 2
    assert loader.run(folder, "--tenant", "x" * 257).exit_code == 2
    result = loader.run(folder, url="http://127.0.0.1")
    assert result.exit_code == 2
    assert "--store" in result.stderr
    result = loader.run(folder, url=f"unix://{tmp_path}/nowhere.sock")
    assert result.exit_code == 3
    assert result.stderr.startswith("error: the store is not available: ")


def test_errors_in_files_are_shown_though_the_store_is_down(tmp_path: Path) -> None:
    loader = Loader(f"unix://{tmp_path}/nowhere.sock", tmp_path / "tariff")
    files = {BUDGETS: sample_files()[BUDGETS], DESTINATIONS: [{"Id": "", "Prefixes": []}]}
    result = loader(files, "--tenant", "vdf")
    assert result.exit_code == 1
    assert "destinations.json[0].Id (line 1): is empty" in result.stderr


def test_a_folder_without_files_is_an_error(loader: Loader, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = loader.run(str(tmp_path / "empty"))
    assert result.exit_code == 1
    assert "has no *.json files" in result.stderr


def test_on_a_terminal_there_are_bars_and_a_table(loader: Loader, tmp_path: Path) -> None:
    files = sample_files()
    files[RATES][0]["CstmId"] = "[bold]vdf"  # a name is not markup
    folder = write(tmp_path / "tariff", files)
    parent, child = pty.openpty()
    words = [sys.executable, "-m", "common.cli", "load", str(folder), "--store", loader.url, "--wait", "0"]
    env = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(words, stdin=child, stdout=child, stderr=child, env=env)
    os.close(child)
    shown = b""
    while True:
        try:
            part = os.read(parent, 4096)
        except OSError:  # how a terminal says that its other side is gone
            break
        if not part:
            break
        shown += part
    os.close(parent)
    assert process.wait(60) == 0, shown
    text = shown.decode()
    assert "reading files" in text
    assert "opening accounts" in text
    assert "[bold]vdf" in text
    assert "1 created, 0 kept, 0 reset" in text


# --- accounts -------------------------------------------------------------------------------------------


def test_a_reload_keeps_live_balances_until_told_to_reset_them(
    loader: Loader, store: StoreConnection
) -> None:
    assert loader(sample_files()).exit_code == 0
    key = account_keys("vdf", "rif").account
    [value] = store.execute([("GET", key)])
    store.execute([("SET", key, with_figures(value, credit=7))])

    result = loader(sample_files())
    assert "accounts: 0 created, 1 kept, 0 reset" in result.stdout
    kept = account(store, "rif")
    assert kept is not None
    assert kept.credit_micros == 7

    result = loader(sample_files(), "--reset-balances")
    assert "accounts: 0 created, 0 kept, 1 reset" in result.stdout
    reset = account(store, "rif")
    assert reset is not None
    assert reset.credit_micros == 21_500_000


def test_an_account_of_another_format_stops_the_load_and_stays(
    loader: Loader, store: StoreConnection
) -> None:
    """What an older release wrote, a hash, is never taken for no account."""
    key = account_keys("vdf", "rif").account
    store.execute([("HSET", key, "seq", 1, "credit", 5)])
    before = store.execute([("DUMP", key)])
    for options in ((), ("--reset-balances",)):
        result = loader(sample_files(), *options)
        assert result.exit_code == 1
        assert "WRONGTYPE" in result.output
    assert store.execute([("DUMP", key)]) == before


def test_budgets_alone_open_accounts_and_publish_nothing(loader: Loader, store: StoreConnection) -> None:
    assert loader(sample_files()).exit_code == 0
    budgets = [{"Id": f"s{number}", "TariffPlanId": "evening"} for number in range(1201)]
    result = loader({BUDGETS: budgets})
    assert result.exit_code == 0
    assert result.stdout == "tenant 'vdf': accounts: 1201 created, 0 kept, 0 reset\n"
    assert read_active(store) == Active(1, {"vdf": 1})
    assert account(store, "s1200") == Account("s1200", plan="evening")


def test_a_load_that_ended_between_tariff_and_accounts_is_completed_by_another(
    loader: Loader, store: StoreConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    budgets = [{"Id": f"s{number}"} for number in range(600)]
    files = sample_files() | {BUDGETS: budgets}
    batches = count()

    def dies(store: StoreConnection, commands: Any, durability: Durability) -> Any:
        if next(batches):
            raise StoreUnavailable(detail="gone")
        return real(store, commands, durability)

    from rater.loader import load

    real = load.make
    with monkeypatch.context() as patch:
        patch.setattr(load, "make", dies)
        assert loader(files).exit_code == 3
    assert read_active(store).versions == {"vdf": 1}
    assert account(store, "s0") is not None
    assert account(store, "s599") is None
    assert "accounts: 100 created, 500 kept, 0 reset" in loader(files).stdout


# --- several tenants and partial loads ------------------------------------------------------------------


def test_tenants_are_switched_together_and_each_has_its_own_versions(
    loader: Loader, store: StoreConnection
) -> None:
    rate = sample_files()[RATES][0]
    assert loader({RATES: [rate]}).exit_code == 0
    assert loader({RATES: [rate, {**rate, "CstmId": "other"}]}).exit_code == 0
    assert read_active(store) == Active(2, {"vdf": 2, "other": 1})
    assert loader({DESTINATIONS: [{"Id": "x", "Prefixes": ["1"]}]}).exit_code == 1  # whose?
    result = loader({DESTINATIONS: [{"Id": "x", "Prefixes": ["1"]}]}, "--tenant", "other")
    assert result.stdout.startswith("tenant 'other': version 2: 1 kept rate, 1 destination, 0 plans\n")
    assert read_active(store) == Active(3, {"vdf": 2, "other": 2})


def test_a_kind_that_is_loaded_replaces_all_of_it_and_the_others_stay(
    loader: Loader, store: StoreConnection
) -> None:
    assert loader(sample_files()).exit_code == 0
    assert loader({PLANS: [{"Id": "night", "SmsCredit": 1}]}).exit_code == 0
    first, second = read_version(store, "vdf", 1), read_version(store, "vdf", 2)
    assert (second.rates, second.destinations) == (first.rates, first.destinations)
    assert second.plans == (Plan("night", sms_micros=1_000_000),)


def test_a_partial_load_on_a_damaged_version_is_refused(loader: Loader, store: StoreConnection) -> None:
    assert loader(sample_files()).exit_code == 0
    store.execute([("DEL", tariff_chunk_key("vdf", 1, 0))])
    result = loader({PLANS: [{"Id": "night", "SmsCredit": 1}]})
    assert result.exit_code == 1
    assert "version 1 of the tariff of tenant 'vdf' can't be read: chunk 0 is missing" in result.stderr
    full = sample_files()
    assert loader(full).exit_code == 0  # one that holds all kinds does not need it
    assert read_version(store, "vdf", 2).plans


# --- conflicts ------------------------------------------------------------------------------------------


def test_a_load_that_lost_says_so(
    loader: Loader, store: StoreConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rater.loader import load

    def late(*args: Any) -> Any:
        publish(store, [tariff()], {}, {})
        return publish(*args)

    monkeypatch.setattr(load, "publish", late)
    result = loader(sample_files())
    assert result.exit_code == 1
    assert "someone else loaded meanwhile; nothing was switched, load again" in result.stderr
    assert read_version(store, "vdf", read_active(store).versions["vdf"]) == tariff()
    assert account(store, "rif") is None


# --- raters ---------------------------------------------------------------------------------------------


def beat(store: StoreConnection, name: str, epoch: int, age_ms: int = 0) -> None:
    store.execute([("HSET", RATERS, name, f"{epoch} {time.time_ns() // 1_000_000 - age_ms}")])


def test_a_load_waits_until_every_live_rater_has_picked_it_up(loader: Loader, store: StoreConnection) -> None:
    beat(store, "one", 1, age_ms=-60_000)
    beat(store, "dead", 0, age_ms=60_000)
    beat(store, "slow", 0, age_ms=-60_000)
    result = loader(sample_files(), "--wait", "0.2")
    assert "picked up by 1 of 2 raters within 0.2 s: the others follow by themselves" in result.stdout
    beat(store, "one", 5, age_ms=-60_000)
    beat(store, "slow", 2, age_ms=-60_000)
    assert "picked up by 2 raters" in loader(sample_files()).stdout
    assert "rater" not in loader(sample_files(), "--wait", "0").stdout


def test_a_load_waits_for_raters_that_are_still_starting(
    loader: Loader, store: StoreConnection, store_server: EmbeddedStore
) -> None:
    """As the one of `ratel up`, whose raters are not in the table when the tariff is published."""
    expected = "picked up by 0 of 2 raters within 0.2 s: the others follow by themselves"
    assert expected in loader(sample_files(), "--raters", "2", "--wait", "0.2").stdout
    epoch = read_active(store).epoch
    looks = 0

    class Joining(StoreConnection):
        def execute(self, commands: Any) -> Any:
            nonlocal looks
            looks += 1
            if looks in (2, 3):
                beat(store, f"rater-{looks}", epoch)
            return super().execute(commands)

    with Joining(store_server.url) as own:
        assert wait_for_raters(own, epoch, 60, at_least=2) == (2, 2)
    assert looks == 3


def test_raters_are_told_apart_by_the_clock_of_the_store(
    loader: Loader, store: StoreConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat(store, "one", 5, age_ms=-60_000)
    now_ns = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now_ns + 3600 * 10**9)
    assert "picked up by 1 rater" in loader(sample_files()).stdout


def test_a_load_removes_raters_that_were_killed_long_ago(loader: Loader, store: StoreConnection) -> None:
    beat(store, "live", 5, age_ms=-60_000)
    beat(store, "stopped", 0, age_ms=1800_000)
    beat(store, "killed", 0, age_ms=3601_000)
    assert "picked up by 1 rater" in loader(sample_files()).stdout
    [names] = store.execute([("HKEYS", RATERS)])
    assert sorted(names) == [b"live", b"stopped"]


def test_waiting_ends_as_soon_as_the_last_rater_reports(
    store: StoreConnection, store_server: EmbeddedStore
) -> None:
    beat(store, "slow", 0, age_ms=-60_000)
    waiting = threading.Event()
    outcome = []

    class Watched(StoreConnection):
        def execute(self, commands: Any) -> Any:
            replies = super().execute(commands)
            waiting.set()
            return replies

    def run() -> None:
        with Watched(store_server.url) as own:
            outcome.append(wait_for_raters(own, 4, 60))

    thread = threading.Thread(target=run)
    thread.start()
    assert waiting.wait(60)
    beat(store, "slow", 4, age_ms=-60_000)
    thread.join(60)
    assert outcome == [(1, 1)]


# --- mutated files --------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(sample_files())), st.data())
def test_a_mutated_file_loads_or_changes_nothing(
    store: StoreConnection, store_server: EmbeddedStore, tmp_path: Path, name: str, data: st.DataObject
) -> None:
    assert store.execute([("FLUSHALL", "SYNC"), ("SET", TARIFF_EPOCH, 5)]) == [b"OK", b"OK"]
    before = dump(store)
    folder = write(tmp_path / "mutated", sample_files())
    text = (folder / name).read_bytes()
    start = data.draw(st.integers(0, len(text)))
    end = start + data.draw(st.integers(0, 8))
    new = data.draw(
        st.one_of(st.binary(max_size=4), st.sampled_from([b"-1", b"1e999", b'""', b"null", b"{}"]))
    )
    (folder / name).write_bytes(text[:start] + new + text[end:])
    result: LoadResult = load_paths([folder], LoadOptions(store_server.url, wait_s=0))
    if result.report.error_count:
        assert dump(store) == before
    else:
        for tenant, version in read_active(store).versions.items():
            assert read_version(store, tenant, version).tenant == tenant
