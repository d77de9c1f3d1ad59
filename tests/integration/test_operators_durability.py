"""What operators change is as certain as what raters change: a failover takes nothing back that they were
told is done. On a cluster: `tests/faults/cluster_runs.py`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from common.cli import main
from tests.integration.test_load import write
from tests.store_group import StoreGroup
from tests.unit.tariff_sample import BUDGETS, DESTINATIONS, PLANS, RATES, sample_files

SURE = {"RATEL_DURABILITY": "replicated", "RATEL_DURABILITY_TIMEOUT": "700"}
BRIEFLY = ("--durability-timeout", "50")


def ratel(url: str, *words: str) -> Result:
    return CliRunner().invoke(main, list(words), env={"RATEL_STORE": url, **SURE})


def surely(url: str, *words: str) -> str:
    """Repeated as its message says, as replicas on a busy machine may take their time."""
    result = ratel(url, *words)
    while result.exit_code == 3 and "copies confirmed" in result.stderr:
        result = ratel(url, *words)
    assert result.exit_code == 0, (words, result.output)
    return result.output


def run(url: str, *words: str) -> Result:
    return ratel(url, "account", *words)


def sure(url: str, *words: str) -> str:
    return surely(url, "account", *words)


def versions(url: str, tenant: str) -> list[tuple[int, bool]]:
    """Those that are kept, and which is active."""
    found = json.loads(surely(url, "tariff", "list", tenant, "--json"))[tenant]
    return [(each["version"], each["active"]) for each in found]


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreGroup]:
    with StoreGroup(tmp_path_factory.mktemp("group"), replicas=1, sentinels=3, appendfsync="no") as running:
        yield running


def test_what_too_few_copies_confirmed_is_told_and_a_repetition_is_no_second_change(
    group: StoreGroup,
) -> None:
    sure(group.url, "create", "vdf", "a", "--credit", "100")
    sure(group.url, "block", "vdf", "a")
    [replica] = group.replicas()
    group.kill(replica.name)
    try:
        credit = ("credit", "vdf", "a", "5", "--request-id", "one")
        for words in (credit, credit, ("block", "vdf", "a"), ("create", "vdf", "b")):
            refused = run(group.url, *words, *BRIEFLY)
            assert refused.exit_code == 3, words
            assert "1 of 2 copies confirmed" in refused.stderr
        assert (
            "run this again with --request-id account-credit-"
            in run(group.url, "credit", "vdf", "a", "0", *BRIEFLY).stderr
        )
        unknown = run(group.url, "block", "vdf", "nobody", *BRIEFLY)
        assert (unknown.exit_code, "copies" in unknown.stderr) == (1, False), (
            "nothing was done on the primary"
        )
        without = CliRunner().invoke(main, ["account", *credit], env={"RATEL_STORE": group.url})
        assert "105 cents, as before" in without.output
    finally:
        group.restart(replica.name)
        group.wait_for_replica(replica.name)
    assert "105 cents, as before" in sure(group.url, *credit)
    assert "already" in sure(group.url, "block", "vdf", "a")


def write_for(tenant: str, folder: Path) -> Path:
    files = sample_files()
    files[RATES][0]["CstmId"] = tenant
    return write(folder, files)


def test_a_load_waits_for_copies_and_says_so_when_they_do_not_confirm_it(
    group: StoreGroup, tmp_path: Path
) -> None:
    load = ("load", str(write_for("l", tmp_path / "tariff")), "--wait", "0")
    surely(group.url, *load)
    [(before, _)] = versions(group.url, "l")
    [replica] = group.replicas()
    group.pause(replica.name)
    try:
        refused = ratel(group.url, *load, *BRIEFLY)
        assert (refused.exit_code, refused.stdout) == (3, "")
        assert refused.stderr == (
            "error: the load is not complete: 1 of 2 copies confirmed within 50 ms what was written last; "
            "run it again\n"
        )
        assert (before, True) in versions(group.url, "l"), "nothing was switched"
    finally:
        group.resume(replica.name)
    assert "accounts: 0 created, 1 kept, 0 reset" in surely(group.url, *load)
    assert versions(group.url, "l")[-1][1]


def test_what_was_loaded_without_waiting_is_waited_for_though_nothing_changes(
    group: StoreGroup, tmp_path: Path
) -> None:
    """The copies are behind, and connected: whoever has written nothing is told that they have it."""
    folder = write_for("k", tmp_path / "tariff")
    surely(group.url, "load", str(folder), "--wait", "0")
    surely(group.url, "load", str(folder), "--wait", "0")
    (folder / BUDGETS).write_text(json.dumps([{"Id": f"k{number}"} for number in range(1200)]))
    for name in (RATES, DESTINATIONS, PLANS):
        (folder / name).unlink()
    budgets = ("load", str(folder), "--tenant", "k")
    first, second = (version for version, _ in versions(group.url, "k"))
    activate = ("tariff", "activate", "k", str(first), "--wait", "0")
    [replica] = group.replicas()
    group.pause(replica.name)
    try:
        for words in (budgets, activate):
            assert ratel(group.url, *words, "--durability", "everysec").exit_code == 0
        refused = ratel(group.url, *budgets, *BRIEFLY)
        assert refused.exit_code == 3
        assert "the load is not complete: 1 of 2 copies confirmed" in refused.stderr
        refused = ratel(group.url, *activate, *BRIEFLY)
        assert (refused.exit_code, refused.stdout) == (3, "")
        assert "the switch is not certain: 1 of 2 copies confirmed" in refused.stderr
    finally:
        group.resume(replica.name)
    assert "0 created, 1200 kept, 0 reset" in surely(group.url, *budgets)
    assert "is active already" in surely(group.url, *activate)
    assert versions(group.url, "k") == [(first, True), (second, False)]


def test_operators_commands_survive_a_failover_by_sentinels(group: StoreGroup, tmp_path: Path) -> None:
    surely(group.url, "load", str(write_for("f", tmp_path / "tariff")), "--wait", "0")
    sure(group.url, "create", "vdf", "s", "--credit", "100", "--bucket", "GERMANY=60")
    sure(group.url, "set", "vdf", "s", "--type", "postpaid", "--floor", "-50")
    sure(group.url, "credit", "vdf", "s", "5")
    sure(group.url, "block", "vdf", "s")
    dead = group.kill_primary()
    group.wait_for_new_primary(dead.name)
    assert [is_active for _, is_active in versions(group.url, "f")] == [True]
    assert json.loads(sure(group.url, "show", "f", "rif", "--json"))["TariffPlanId"] == "evening"
    found = json.loads(sure(group.url, "show", "vdf", "s", "--json"))
    assert (found["Blocked"], found["Credit"], found["MinCredit"], found["Changes"]) == (True, 105, -50, 4)
    assert len(sure(group.url, "history", "vdf", "s").splitlines()) == 4
    refused = run(group.url, "unblock", "vdf", "s", *BRIEFLY)
    assert refused.exit_code == 3, "the successor has no replica"
    assert "1 of 2 copies confirmed" in refused.stderr
