"""`ratel up --metrics`: each process has a port of its own, gateways that share theirs, too. And what is
counted there that went wrong: refused requests, failures of the store."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from common.storage.store import StoreConnection
from tests.e2e.cluster import RATEL, SAMPLE_TARIFF, Cluster
from tests.integration.balancer_process import PATIENCE_S

NAMES = ("balancer", "gateway-1", "gateway-2", "rater-1", "rater-2")
CALL = {"cstmid": "vdf", "subj": "rif", "dest": "0256"}


class Watched(Cluster):
    """With API keys, which callers on this host need as well, but for what is not of an account."""

    def __init__(self, folder: Path) -> None:
        keys = folder / "keys.json"
        words = ("apikey", "create", "--api-keys", str(keys), "--name", "all", "--all-tenants")
        allowed = ("--allow", "read", "--allow", "debit")
        made = subprocess.run(
            [*RATEL, *words, *allowed], capture_output=True, text=True, timeout=60, check=True
        )
        self.key = made.stdout.strip()
        super().__init__(
            folder / "data",
            *("--raters", "2", "--gateways", "2", "--metrics", "127.0.0.1:0", "--api-keys", str(keys)),
            *("--load", str(SAMPLE_TARIFF), "--tenant", "vdf"),
        )

    def wait_ready(self) -> None:
        super().wait_ready()
        lines = [line.split() for line in self.up.lines if line.strip().startswith("metrics ")]
        self.urls = {name: url for _, url, name in lines}

    def scrape(self, name: str) -> Counter[tuple[str, str]]:
        """By sample and the last of its labels."""
        with urlopen(self.urls[name], timeout=PATIENCE_S) as response:
            text = response.read().decode()
        return Counter(
            {
                (sample.name, "/".join(sample.labels.values())): sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
            }
        )

    def gateways(self) -> Counter[tuple[str, str]]:
        return self.scrape("gateway-1") + self.scrape("gateway-2")


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    cluster = Watched(tmp_path_factory.mktemp("watched"))
    try:
        cluster.wait_ready()
        yield cluster
        cluster.stop()
    finally:
        cluster.kill_everything()


def until(truth: Callable[[], bool], what: str) -> None:
    give_up_s = time.monotonic() + PATIENCE_S
    while not truth():
        assert time.monotonic() < give_up_s, what
        time.sleep(0.05)


def test_each_process_has_its_port_and_tells_of_itself(watched: Watched) -> None:
    assert tuple(watched.urls) == NAMES
    assert len(set(watched.urls.values())) == len(NAMES)
    for name in NAMES:
        kind = "rater" if name.startswith("rater") else "front"
        [labels] = [labels for sample, labels in watched.scrape(name) if sample == "ratel_build_info"]
        assert labels.startswith(f"{kind}/")
    before = watched.gateways()
    answered = ("ratel_front_requests_total", "GetCost/ok")
    for _ in range(20):  # a connection each: the kernel shares them out
        assert watched.get("/getcost", {"x-api-key": watched.key}, **CALL)[0] == 200
    assert watched.gateways()[answered] == before[answered] + 20
    assert watched.scrape("balancer")[answered] >= 20
    assert sum(watched.scrape(name)["ratel_rater_requests_total", "GetCost/ok"] for name in NAMES[3:]) >= 20


def by_tcp(cluster: Watched, text: bytes) -> bytes:
    with socket.create_connection(cluster.jsonrpc, PATIENCE_S) as line:
        line.sendall(text)
        line.shutdown(socket.SHUT_WR)
        return line.makefile("rb").read()


def by_http(cluster: Watched, path: str, body: bytes | None = None, verb: str = "GET") -> bytes:
    request = Request(cluster.http + path, body, {"x-api-key": cluster.key}, method=verb)
    with pytest.raises(HTTPError) as error:
        urlopen(request, timeout=PATIENCE_S)
    with error.value as response:
        return response.read()


def too_long_a_head(cluster: Watched) -> bytes:
    host, port = cluster.http.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), PATIENCE_S) as line:
        line.sendall(b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n")
        return line.makefile("rb").read()


MESSAGE = b'{"jsonrpc":"2.0","id":1,"method":"Responder.%b","params":{}}'
MISTAKES: dict[str, tuple[str, Callable[[Watched], bytes]]] = {
    "text that is no JSON": ("parse_error", lambda c: by_tcp(c, b'{"a":}')),
    "no request": ("invalid_request", lambda c: by_tcp(c, b"{}")),
    "unknown method": ("method_not_found", lambda c: by_tcp(c, MESSAGE % b"Nothing")),
    "too large": ("message_too_large", lambda c: by_tcp(c, b'{"a":"' + b"x" * 1_100_000 + b'"}')),
    "no key": ("unauthorized", lambda c: by_tcp(c, MESSAGE % b"GetCost")),
    "a key for less": ("forbidden", lambda c: by_http(c, "/account?cstmid=vdf&subj=rif")),
    "no parameter": ("invalid_params", lambda c: by_http(c, "/getcost")),
    "no path": ("not_found", lambda c: by_http(c, "/nothing")),
    "no verb": ("method_not_allowed", lambda c: by_http(c, "/getcost", verb="DELETE")),
    "a body too large": ("message_too_large", lambda c: by_http(c, "/getcost", b"x" * 1_100_000, "POST")),
    "a head too large": ("head_too_large", too_long_a_head),
    "a call of a body": (
        "forbidden",
        lambda c: json.dumps(
            c.request("POST", "/jsonrpc", MESSAGE % b"Account", {"x-api-key": c.key})[1]
        ).encode(),
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_is_refused_before_it_is_a_request_is_counted_by_its_error(
    watched: Watched, mistake: str
) -> None:
    name, make = MISTAKES[mistake]
    before = watched.gateways()
    assert name.encode() in make(watched)
    reason = ("ratel_front_refused_total", name)
    after = watched.gateways()
    assert after[reason] == before[reason] + 1
    others = {key for key in after if key[0] == reason[0]} - {reason}
    assert all(after[key] == before[key] for key in others)
    answered = [key for key in after if key[0] == "ratel_front_requests_total"]
    assert all(after[key] == before[key] for key in answered)  # there it is not


def test_the_ports_outlive_their_processes(watched: Watched) -> None:
    began = ("process_start_time_seconds", "")
    for name, part in (("gateway-1", "gateway"), ("rater-2", "rater")):
        before = watched.scrape(name)[began]
        for pid in watched.processes(f"common.cli {part}"):
            os.kill(pid, signal.SIGKILL)

        def is_back(name: str = name, before: float = before) -> bool:
            try:
                return watched.scrape(name)[began] > before
            except OSError:  # it was asked in the moment of its death
                return False

        until(is_back, name)
    pids = set(watched.processes("common.cli gateway"))
    os.kill(watched.up.process.pid, signal.SIGHUP)
    until(lambda: not pids & set(watched.processes("common.cli gateway")), "the gateways are replaced")
    watched.up.wait_for_line("replaced after")
    for name in NAMES:
        assert watched.scrape(name)["process_resident_memory_bytes", ""] > 0


def test_failures_of_the_store_are_counted_by_kind(watched: Watched) -> None:
    def failures(kind: str) -> float:
        return sum(watched.scrape(name)["ratel_rater_store_failures_total", kind] for name in NAMES[3:])

    def debit() -> int:
        params = {**CALL, "amount": 1}
        return watched.get("/debitsms", {"x-api-key": watched.key}, **params)[0]

    until(lambda: debit() == 200, "a debit goes through")
    assert failures("oom") == 0
    with StoreConnection(f"embedded:{watched.data}") as store:
        store.execute([("CONFIG", "SET", "maxmemory", "1")])
        try:
            assert debit() == 503
            assert failures("oom") >= 1
        finally:
            store.execute([("CONFIG", "SET", "maxmemory", "0")])
    lost = failures("connection_lost")
    [store_pid] = set(watched.processes()) - set(watched.processes("common.cli"))
    os.kill(store_pid, signal.SIGKILL)
    until(lambda: failures("connection_lost") > lost, "the loss is counted")
    until(lambda: debit() == 200, "the store is back")


def free_row(count: int) -> int:
    """The first of so many neighbouring ports, none of which the kernel gives away by itself."""
    while True:
        first = random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), contextlib.ExitStack() as held:
            for port in range(first, first + count):
                held.enter_context(socket.create_server(("127.0.0.1", port)))
            return first


def test_what_a_part_is_told_of_itself_is_numbered_where_there_are_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of raters by the environment, of the balancer by the file."""
    port = free_row(3)
    file = tmp_path / "ratel.toml"
    file.write_text(f'[balancer]\nmetrics = "127.0.0.1:{port}"\n')
    monkeypatch.setenv("RATEL_CONFIG", str(file))
    monkeypatch.setenv("RATEL_RATER_METRICS", f"127.0.0.1:{port + 1}")
    cluster = Cluster(tmp_path / "data", "--raters", "2", "--load", str(SAMPLE_TARIFF), "--tenant", "vdf")
    try:
        cluster.wait_ready()
        told = [line.split() for line in cluster.up.lines if line.strip().startswith("metrics ")]
        expected = [("balancer", port), ("rater-1", port + 1), ("rater-2", port + 2)]
        assert told == [["metrics", f"http://127.0.0.1:{at}/metrics", name] for name, at in expected]
        for name, at in expected:
            with urlopen(f"http://127.0.0.1:{at}/metrics", timeout=PATIENCE_S) as response:
                kind = "rater" if name.startswith("rater") else "front"
                assert f'ratel_build_info{{kind="{kind}"' in response.read().decode()
        cluster.stop()
    finally:
        cluster.kill_everything()


def test_an_address_of_a_part_that_can_t_be_used_is_said_at_once_with_where_it_stands(tmp_path: Path) -> None:
    def refused(**environment: str) -> str:
        words = [*RATEL, "up", "--data", str(tmp_path / "data"), "--gateways", "2"]
        words += [f"--{name}=127.0.0.1:0" for name in ("jsonrpc", "http", "router")]
        env = os.environ | environment
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, env=env)
        assert (done.returncode, done.stdout) == (1, "")
        return done.stderr

    file = tmp_path / "ratel.toml"
    file.write_text('[gateway]\nmetrics = "127.0.0.1:65535"\n')
    beyond = f"{file}:2: 2 ports from 65535 on end beyond 65535"
    assert beyond in refused(RATEL_CONFIG=str(file))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        said = f"RATEL_RATER_METRICS: can't listen on {where}: Address already in use, for rater-1"
        assert said in refused(RATEL_RATER_METRICS=where)
    said = "RATEL_RATER_JSONRPC: 2 raters can't all listen on 127.0.0.1:2011: give --raters 1, or port 0"
    assert said in refused(RATEL_RATER_JSONRPC="127.0.0.1:2011")


def test_a_port_that_is_taken_is_said_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = ["up", "--data", str(tmp_path), "--metrics", f"127.0.0.1:{port}"]
        words += [f"--{name}=127.0.0.1:0" for name in ("jsonrpc", "http", "router")]
        done = subprocess.run([*RATEL, *words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert f"--metrics: can't listen on 127.0.0.1:{port}" in done.stderr


@pytest.mark.parametrize("command", ["balancer", "gateway"])
def test_a_front_tells_of_itself_where_metrics_says(command: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    words = [command, "--jsonrpc", "none", "--http", "none", "--metrics", "127.0.0.1:0"]
    words += ["--router", "127.0.0.1:0"] if command == "balancer" else []
    with log.open("wb") as stderr:
        process = subprocess.Popen([*RATEL, *words], stderr=stderr)
    try:
        until(lambda: "metrics=http://" in log.read_text(), log.read_text())
        url = log.read_text().partition("metrics=")[2].split()[0]
        with urlopen(url, timeout=PATIENCE_S) as response:
            assert b"ratel_front_requests_waiting 0.0" in response.read()
    finally:
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
