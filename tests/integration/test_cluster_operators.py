"""What operators do on a cluster of stores that has the users of `ratel acl`: their commands as those users,
on accounts of every node, and what is told of the nodes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import urlopen

import pytest
from click.testing import CliRunner, Result

from common.cli import main
from common.client import JSONClient
from common.errors import Blocked, UnknownSubject
from rater.accounts import command_parts
from rater.store.users import AUDITOR, OPERATOR
from tests.e2e.cluster import SAMPLE_TARIFF, Cluster, Process, is_free
from tests.integration.test_cluster import subjects
from tests.store_cluster import CHOSEN, SERVERS, StoreCluster
from tests.store_members import free_ports, wait_until

CALL = {"DestinationPrefix": "0256", "TimeStart": "2012-02-02T17:30:00Z", "TimeEnd": "2012-02-02T18:30:00Z"}


class Site(NamedTuple):
    stores: StoreCluster
    ratel: Cluster
    names: dict[str, str]
    """A subject for each node, by the node's name."""

    def run(self, *words: str, user: str = OPERATOR) -> Result:
        environment = {"RATEL_STORE": self.stores.url_for(user), "RATEL_URL": self.ratel.http}
        environment["RATEL_ADDRESS"] = f"{self.ratel.jsonrpc[0]}:{self.ratel.jsonrpc[1]}"
        return CliRunner().invoke(main, list(words), env=environment)

    def ratel_command(self, *words: str, user: str = OPERATOR) -> str:
        done = self.run(*words, user=user)
        assert done.exit_code == 0, (words, done.output)
        return done.output

    def status(self) -> Any:
        return json.loads(self.run("status", "--json").output)

    def refused(self) -> list[Any]:
        """What some node's users were not allowed to do."""
        logs = [self.stores.ask(name, "ACL", "LOG") for name in self.stores.names]
        entries = [dict(zip(entry[::2], entry[1::2], strict=True)) for log in logs for entry in log]
        # Redis 7.0 does not know CLIENT SETINFO, which the client library tries.
        return [entry for entry in entries if entry[b"object"] != b"client"]


@pytest.fixture(scope="module", params=CHOSEN)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("operators")
    options = {"replicas": 0, "server": SERVERS[request.param], "has_users": True}
    with StoreCluster(folder / "stores", options=("maxmemory 100mb",), **options) as stores:
        load = ("load", str(SAMPLE_TARIFF), "--tenant", "vdf", "--wait", "0")
        done = CliRunner().invoke(main, load, env={"RATEL_STORE": stores.url_for(OPERATOR)})
        assert done.exit_code == 0, done.output
        running = Cluster(folder / "data", "--store", stores.url)
        try:
            running.wait_ready()
            found = Site(stores, running, subjects(stores))
            for subject in found.names.values():
                found.ratel_command("account", "create", "vdf", subject, "--credit", "1000")
            yield found
        finally:
            running.stop()


def ask(client: JSONClient, method: str, subject: str, **fields: Any) -> Any:
    return client.call(method, {"CstmId": "vdf", "Subject": subject, **fields})


def test_accounts_are_looked_at_credited_set_and_blocked_on_every_node(site: Site) -> None:
    with site.ratel.client() as client:
        for subject in site.names.values():
            for _ in range(2):
                said = site.ratel_command("account", "credit", "vdf", subject, "500", "--request-id", "top")
                assert said.startswith("1500 cents")
            site.ratel_command("account", "set", "vdf", subject, "--floor", "-100")
            assert ask(client, "DebitBalance", subject, Amount=1, RequestId="a") == 1499
            site.ratel_command("account", "block", "vdf", subject)
            with pytest.raises(Blocked):
                ask(client, "DebitBalance", subject, Amount=1, RequestId="b")
            shown = json.loads(site.ratel_command("account", "show", "vdf", subject, "--json", user=AUDITOR))
            assert shown == ask(client, "Account", subject)
            assert (shown["Blocked"], shown["Credit"], shown["MinCredit"]) == (True, 1499, -100)
            told = ask(client, "History", subject, Amount=50)
            lines = site.ratel_command("account", "history", "vdf", subject, "--json", user=AUDITOR)
            assert told["Lines"] == [json.loads(line) for line in lines.splitlines()]
            operations = [line["Operation"] for line in told["Lines"]]
            assert operations == ["Open", "DebitBalance", "SetTerms", "DebitBalance", "SetTerms"]
            assert ask(client, "Explain", subject, **CALL)["Verdict"] == "blocked"
            site.ratel_command("account", "unblock", "vdf", subject)
            assert ask(client, "DebitBalance", subject, Amount=1, RequestId="c") == 1498
            explained = json.loads(
                site.ratel_command(
                    *("explain", "vdf", subject, "0256308200", "--start", CALL["TimeStart"]),
                    *("--end", CALL["TimeEnd"], "--json"),
                )
            )
            assert (explained["Verdict"], explained["Account"]["Credit"]) == ("ok", 1498)
        for method in ("Account", "History"):
            with pytest.raises(UnknownSubject):
                ask(client, method, "nobody")
    assert "already" in site.run("account", "create", "vdf", subject).output
    assert site.run("account", "show", "vdf", "nobody").exit_code == 1
    assert site.refused() == []


def test_tariffs_call_records_audit_and_archive(site: Site, tmp_path: Path) -> None:
    assert "picked up by 2 raters" in site.ratel_command("load", str(SAMPLE_TARIFF), "--tenant", "vdf")
    site.ratel_command("tariff", "diff", "vdf", "1", "2", user=AUDITOR)
    site.ratel_command("tariff", "activate", "vdf", "1")
    assert "*    1" in site.ratel_command("tariff", "list", "vdf", user=AUDITOR)
    calls = tmp_path / "calls.csv"
    rows = [f"vdf,{subject},0256,{CALL['TimeStart']},{CALL['TimeEnd']}" for subject in site.names.values()]
    calls.write_text("\n".join(("CstmId,Subject,DestinationPrefix,TimeStart,TimeEnd", *rows)) + "\n")
    rated = json.loads(site.ratel_command("rate", str(calls), "--json"))
    assert (rated["totals"]["calls"], rated["totals"]["cost"], rated["rejected"]) == (3, "540", {})
    archive = tmp_path / "archive"
    exported = site.ratel_command("journal", "export", "--to", str(archive), "--trim")
    assert "archived lines removed" in exported
    whole = site.ratel_command("audit", "--archive", str(archive), user=AUDITOR)
    assert "0 from a later line on" in whole
    assert "no differences" in whole
    assert site.refused() == []


def test_all_nodes_are_told_of_and_which_one_is_away(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    ports = {name: site.stores.member(name).port for name in site.stores.names}
    addresses = {name: f"127.0.0.1:{port}" for name, port in ports.items()}

    def nodes(rater: int = 0) -> dict[str, Any]:
        return {node["address"]: node for node in site.status()["raters"][rater]["store"]["nodes"]}

    wait_until(lambda: nodes().keys() == nodes(1).keys() == {*addresses.values()}, "raters tell of all nodes")
    [one, _] = [rater["store"] for rater in site.status()["raters"]]
    assert all(node["ok"] and node["used_memory"] > 500_000 for node in one["nodes"])
    assert one["used_memory"] == sum(node["used_memory"] for node in one["nodes"])
    assert one["max_memory"] == 3 * 100 * 1024 * 1024
    assert one["round_trip_us"] > 0
    assert site.ratel_command("status").rstrip().endswith("ready")
    assert addresses["store-1"] in site.ratel_command("top")

    [lost, *others] = site.names
    site.stores.kill(lost)
    try:
        wait_until(lambda: not nodes()[addresses[lost]]["ok"], "the node that is away is told of")
        said = site.run("status")
        assert said.exit_code == 1
        assert f"node {addresses[lost]} does not answer" in said.output
        with site.ratel.client() as client:
            for name in others:  # where the tariffs are is one of the nodes, whichever
                assert ask(client, "Account", site.names[name])["Credit"] == 1498
        monkeypatch.setattr(command_parts, "STORE_TIMEOUT_MS", 300)
        refused = site.run("account", "block", "vdf", site.names[lost])
        assert refused.exit_code == 3
        assert f"127.0.0.1:{ports[lost]}: " in refused.output
        assert "NODELOST" not in refused.output
    finally:
        site.stores.restart(lost)
    wait_until(lambda: site.run("status").exit_code == 0, "all is well again")
    assert all(node["ok"] for node in nodes().values())


def test_a_rater_tells_prometheus_of_each_node(site: Site) -> None:
    [port] = free_ports(1)
    rater = Process(
        *("rater", "--store", site.stores.url, "--balancer", site.ratel.router),
        *("--metrics", f"127.0.0.1:{port}"),
    )
    try:
        url = f"http://127.0.0.1:{port}/metrics"
        wait_until(lambda: not is_free(port), "the rater's metrics")

        def values(name: str) -> dict[str, float]:
            with urlopen(url, timeout=10) as reply:
                found = re.findall(rf'^{name}{{node="([^"]+)"}} (\S+)', reply.read().decode(), re.MULTILINE)
            return {node: float(value) for node, value in found}

        wait_until(lambda: len(values("ratel_rater_store_node_up")) == 3, "a look at the nodes")
        assert {*values("ratel_rater_store_node_up").values()} == {1}
        assert min(values("ratel_rater_store_node_used_memory_bytes").values()) > 500_000
        assert {*values("ratel_rater_store_node_max_memory_bytes").values()} == {100 * 1024 * 1024}
        assert {*values("ratel_rater_store_node_replicas").values()} == {0}
    finally:
        rater.terminate()
    assert site.refused() == []
