"""Processes that are told everything by one file, a file that is wrong, and passwords that nobody sees."""

from __future__ import annotations

import contextlib
import secrets
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from common.client import JSONClient
from common.errors import StoreUnavailable
from common.process.child import die_with_parent
from common.storage.embedded_store import EmbeddedStore, find_server
from common.storage.store import StoreConnection
from tests.e2e.cluster import RATEL, SAMPLE_TARIFF, Cluster, Process, StartCluster, is_free
from tests.faults.nodes import wait_until

QUESTION = {
    "CstmId": "vdf",
    "Subject": "rif",
    "DestinationPrefix": "0256",
    "TimeStart": "2012-02-02T17:30:00Z",
    "TimeEnd": "2012-02-02T18:30:00Z",
}
TOKEN = secrets.token_hex(8)
PASSWORD = f"{TOKEN}/@:%"
"""What has to be encoded in a URL is in it, and nobody else's process has it on its command line."""


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        return [
            held.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(count)
        ]


@contextlib.contextmanager
def process(*words: str) -> Iterator[Process]:
    started = Process(*words)
    try:
        yield started
        assert started.terminate() == 0
    finally:
        if started.process.poll() is None:
            started.kill()


def is_ready(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=30) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def test_a_balancer_and_a_rater_from_one_file_and_a_flag_over_it(tmp_path: Path) -> None:
    jsonrpc, http, router, other_http = free_ports(4)
    file = tmp_path / "ratel.toml"
    with EmbeddedStore(tmp_path / "store", appendfsync="no") as store:
        file.write_text(
            f'[store]\nurl = "{store.url}"\n'
            f'[cluster]\nbalancers = ["127.0.0.1:{router}"]\nwait = 60.0\n'
            f'[front]\njsonrpc = "127.0.0.1:{jsonrpc}"\nhttp = "127.0.0.1:{http}"\n'
            f'router = "127.0.0.1:{router}"\n'
            '[load]\ntenant = "vdf"\n'
        )
        with (
            process("balancer", "--config", str(file), "--http", f"127.0.0.1:{other_http}"),
            process("rater", "--config", str(file)),
        ):
            load = Process("load", "--config", str(file), str(SAMPLE_TARIFF))
            assert load.wait() == 0
            wait_until(lambda: is_ready(other_http), "the balancer has a rater that has the tariff")
            with JSONClient(("127.0.0.1", jsonrpc)) as client:
                assert client.call("Responder.GetCost", QUESTION)["Cost"] == 540
            assert is_free(http), "the flag came before the file"


@pytest.mark.parametrize("command", ["balancer", "rater", "up"])
def test_a_wrong_file_stops_the_start_with_one_line(tmp_path: Path, command: str) -> None:
    file = tmp_path / "ratel.toml"
    file.write_text('[log]\nlevel = "info"\n\n[rater]\ncredti = 5\n[front]\nstuck = 0\n')
    done = subprocess.run(
        [*RATEL, command, "--config", str(file)], capture_output=True, text=True, timeout=60, check=False
    )
    expected = {
        "balancer": f"ratel: {file}:7: [front] stuck = 0: 0 is not in the range 1<=x<=3600\n",
        "rater": f"ratel: {file}:5: [rater] credti: there is no such setting; did you mean 'credit'?\n",
    }
    expected["up"] = expected["balancer"]  # which it starts first
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected[command])


# --- passwords ------------------------------------------------------------------------------------


@pytest.fixture
def guarded_store(tmp_path: Path) -> Iterator[str]:
    """A store that lets in the user `ratel` with PASSWORD and nobody else; its URL, without the password."""
    [port] = free_ports(1)
    file = tmp_path / "store.conf"
    file.write_text(f'bind 127.0.0.1\nport {port}\ndir "{tmp_path}"\nsave ""\n')
    rules = tmp_path / "users.acl"
    rules.write_text(f"user default off\nuser ratel on >{PASSWORD} ~* &* +@all\n")
    server = subprocess.Popen(
        [find_server(), str(file), "--aclfile", str(rules)],
        stdout=subprocess.DEVNULL,
        preexec_fn=die_with_parent,
    )
    try:
        wait_until(lambda: not is_free(port), "the store listens")
        yield f"redis://ratel@127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def command_lines() -> list[bytes]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit():
                found.append((entry / "cmdline").read_bytes())
    return found


def test_a_password_comes_from_a_file_and_no_command_line_shows_it(
    start_cluster: StartCluster, guarded_store: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(StoreUnavailable), StoreConnection(guarded_store) as refused:
        refused.execute([("PING",)])
    secret = tmp_path / "secret"
    secret.write_text(f"{PASSWORD}\n")
    settings = tmp_path / "ratel.toml"
    settings.write_text(f'[store]\nurl = "{guarded_store}"\npassword-file = "{secret}"\n[up]\nraters = 1\n')
    cluster: Cluster = start_cluster(
        "--config", str(settings), "--load", str(SAMPLE_TARIFF), "--tenant", "vdf", data=tmp_path / "unused"
    )
    with cluster.client() as client:
        assert client.call("Responder.GetCost", QUESTION)["Cost"] == 540
    assert len(cluster.rater_pids()) == 1
    assert not [line for line in command_lines() if TOKEN.encode() in line]
    audit = Process("audit", "--config", str(settings))
    assert audit.wait() == 0
    said = capfd.readouterr()
    assert TOKEN not in said.out + said.err + "".join(cluster.up.lines)


def test_a_password_in_the_url_is_not_handed_on_by_command_lines(
    start_cluster: StartCluster, guarded_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = guarded_store.replace("ratel@", f"ratel:{TOKEN}%2F%40%3A%25@")
    monkeypatch.setenv("RATEL_STORE", url)
    cluster = start_cluster(
        "--raters", "1", "--load", str(SAMPLE_TARIFF), "--tenant", "vdf", data=tmp_path / "unused"
    )
    assert cluster.store_url == guarded_store.replace("ratel@", "")
    assert not [line for line in command_lines() if TOKEN.encode() in line]
