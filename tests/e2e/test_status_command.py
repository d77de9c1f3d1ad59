"""`ratel status` and `ratel top` against real fronts, in pipes and in a terminal."""

from __future__ import annotations

import json
import os
import pty
import subprocess

from tests.e2e.cluster import RATEL, Cluster
from tests.integration.balancer_process import PATIENCE_S, BalancerProcess


def ratel(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*RATEL, *words], capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def test_a_cluster_that_is_well(sample_cluster: Cluster) -> None:
    found = ratel("status", "--url", sample_cluster.http)
    assert (found.returncode, found.stderr) == (0, "")
    assert "working" in found.stdout
    assert found.stdout.rstrip().endswith("ready")


def test_as_json(sample_cluster: Cluster) -> None:
    found = ratel("status", "--url", sample_cluster.http, "--json")
    assert found.returncode == 0
    status = json.loads(found.stdout)
    assert {rater["state"] for rater in status["raters"]} == {"working"}
    assert {rater["store"]["ok"] for rater in status["raters"]} == {True}
    assert status["tariffs"]["vdf"] >= 1


def test_top_in_a_pipe_is_one_frame(sample_cluster: Cluster) -> None:
    found = ratel("top", "--url", sample_cluster.http)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.count("answers/s") == 1


def test_top_in_a_terminal_goes_on_until_q(sample_cluster: Cluster) -> None:
    ours, theirs = pty.openpty()
    words = [*RATEL, "top", "--url", sample_cluster.http, "--every", "0.2"]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "160", "LINES": "50"}
    process = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    try:
        seen = b""
        while seen.count(b"answers/s") < 3:
            seen += os.read(ours, 65_536)
        os.write(ours, b"xq")
        try:
            while os.read(ours, 65_536):
                pass
        except OSError:  # how a terminal says that the other end is closed
            pass
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait(PATIENCE_S)
        os.close(ours)


def test_without_raters_it_is_not_ready() -> None:
    with BalancerProcess() as balancer:
        found = ratel("status", "--url", f"http://127.0.0.1:{balancer.http_port}")
    assert found.returncode == 1
    assert "no rater works" in found.stdout


def test_nobody_there() -> None:
    found = ratel("status", "--url", "http://127.0.0.1:9")
    assert (found.returncode, found.stdout) == (3, "")
    assert found.stderr.startswith("Error: http://127.0.0.1:9/status.json: ")
    assert "refused" in found.stderr


def test_something_else_there(sample_cluster: Cluster) -> None:
    host, port = sample_cluster.jsonrpc
    assert ratel("top", "--url", f"http://{host}:{port}").returncode == 3


def test_a_wrong_url() -> None:
    found = ratel("status", "--url", "http://host/path")
    assert found.returncode == 2
    assert "--url" in found.stderr
