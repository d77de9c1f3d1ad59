"""What operators change is as certain as what raters change: a failover takes nothing back that they were
told is done. On a cluster: `tests/faults/cluster_runs.py`."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result

from common.cli import main
from tests.store_group import StoreGroup

SURE = {"RATEL_DURABILITY": "replicated", "RATEL_DURABILITY_TIMEOUT": "700"}
BRIEFLY = ("--durability-timeout", "50")


def run(url: str, *words: str) -> Result:
    return CliRunner().invoke(main, ["account", *words], env={"RATEL_STORE": url, **SURE})


def sure(url: str, *words: str) -> str:
    """Repeated as its message says, as replicas on a busy machine may take their time."""
    result = run(url, *words)
    while result.exit_code == 3 and "copies confirmed" in result.stderr:
        result = run(url, *words)
    assert result.exit_code == 0, (words, result.output)
    return result.output


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
        without = CliRunner().invoke(main, ["account", *credit], env={"RATEL_STORE": group.url})
        assert "105 cents, as before" in without.output
    finally:
        group.restart(replica.name)
        group.wait_for_replica(replica.name)
    assert "105 cents, as before" in sure(group.url, *credit)
    assert "already" in sure(group.url, "block", "vdf", "a")


def test_operators_commands_survive_a_failover_by_sentinels(group: StoreGroup) -> None:
    sure(group.url, "create", "vdf", "s", "--credit", "100", "--bucket", "GERMANY=60")
    sure(group.url, "set", "vdf", "s", "--type", "postpaid", "--floor", "-50")
    sure(group.url, "credit", "vdf", "s", "5")
    sure(group.url, "block", "vdf", "s")
    dead = group.kill_primary()
    group.wait_for_new_primary(dead.name)
    found = json.loads(sure(group.url, "show", "vdf", "s", "--json"))
    assert (found["Blocked"], found["Credit"], found["MinCredit"], found["Changes"]) == (True, 105, -50, 4)
    assert len(sure(group.url, "history", "vdf", "s").splitlines()) == 4
    refused = run(group.url, "unblock", "vdf", "s", *BRIEFLY)
    assert refused.exit_code == 3, "the successor has no replica"
    assert "1 of 2 copies confirmed" in refused.stderr
