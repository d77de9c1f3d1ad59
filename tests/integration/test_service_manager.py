"""Raters and balancers under a service manager: what they tell it, and when, heard on its own socket."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.storage.embedded_store import EmbeddedStore
from tests.integration.balancer_process import BalancerProcess

PATIENCE_S = 60.0
WATCHDOG_US = 1_000_000


class Manager:
    """Listens as systemd does."""

    def __init__(self, path: Path) -> None:
        self.environment = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": str(WATCHDOG_US)}
        self.heard: list[str] = []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))

    def listen(self, seconds: float) -> list[str]:
        """What is said in that time."""
        until_s, before = time.monotonic() + seconds, len(self.heard)
        while (left_s := until_s - time.monotonic()) > 0:
            self.socket.settimeout(left_s)
            try:
                self.heard += self.socket.recv(4096).decode().splitlines()
            except TimeoutError:
                break
        return self.heard[before:]

    def wait_for(self, beginning: str) -> list[str]:
        """All that is said until a line begins so, this line the last."""
        self.socket.settimeout(PATIENCE_S)
        said: list[str] = []
        while not (said and said[-1].startswith(beginning)):
            try:
                lines = self.socket.recv(4096).decode().splitlines()
            except TimeoutError:
                raise AssertionError(f"{beginning!r} was not said, but {self.heard}") from None
            self.heard += lines
            said += lines
        return said

    def drain(self) -> None:
        """Forget what was said up to now."""
        self.socket.setblocking(False)
        try:
            while True:
                self.socket.recv(4096)
        except BlockingIOError:
            pass


StartRater = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path / "notify")
    yield manager
    manager.socket.close()


@pytest.fixture
def start_rater(manager: Manager) -> Iterator[StartRater]:
    started: list[subprocess.Popen[bytes]] = []

    def start(*args: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "common.cli", "rater", *args]
        started.append(subprocess.Popen(command, env=os.environ | manager.environment))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def test_a_rater_waits_for_store_and_balancer_before_it_is_ready_and_says_so(
    manager: Manager, start_rater: StartRater, tmp_path: Path
) -> None:
    port = free_port()
    rater = start_rater("--store", f"embedded:{tmp_path}/data", "--balancer", f"127.0.0.1:{port}")
    said = manager.wait_for("STATUS=waiting for the store")
    said += manager.listen(1.2)
    assert "READY=1" not in said
    assert any(line.startswith("EXTEND_TIMEOUT_USEC=") for line in said), "a wait is no failure to start"
    with EmbeddedStore(tmp_path / "data"):
        assert "READY=1" not in manager.wait_for("STATUS=waiting for a balancer")
        with BalancerProcess(f"--router=127.0.0.1:{port}"):
            manager.wait_for("STATUS=no tariff loaded yet, 1 of 1 balancers joined")
            manager.wait_for("READY=1")
            rater.terminate()
            manager.wait_for("STOPPING=1")
            assert rater.wait(PATIENCE_S) == 0
    assert manager.heard.count("READY=1") == 1


def test_a_store_that_goes_away_is_said_and_does_not_stop_the_watchdogs_food(
    manager: Manager, start_rater: StartRater, tmp_path: Path
) -> None:
    with EmbeddedStore(tmp_path / "data") as store, BalancerProcess() as balancer:
        start_rater("--store", store.url, "--balancer", f"127.0.0.1:{balancer.router_port}")
        manager.wait_for("READY=1")
        store.kill()
        manager.wait_for("STATUS=waiting for the store")
        manager.wait_for("WATCHDOG=1")
        manager.wait_for("WATCHDOG=1")


def test_a_stopped_rater_does_not_feed_the_watchdog(
    manager: Manager, start_rater: StartRater, tmp_path: Path
) -> None:
    with EmbeddedStore(tmp_path / "data") as store, BalancerProcess() as balancer:
        rater = start_rater("--store", store.url, "--balancer", f"127.0.0.1:{balancer.router_port}")
        manager.wait_for("READY=1")
        manager.wait_for("WATCHDOG=1")
        rater.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, rater.pid, os.WSTOPPED)
        manager.drain()
        assert manager.listen(2 * WATCHDOG_US / 1e6) == []
        rater.send_signal(signal.SIGCONT)
        manager.wait_for("WATCHDOG=1")


def test_a_balancer_is_ready_when_it_listens_and_its_event_loop_feeds_the_watchdog(manager: Manager) -> None:
    with BalancerProcess(**manager.environment) as balancer:
        manager.wait_for("READY=1")
        assert balancer.get("/healthz").status  # no wait: who is told "ready" may connect
        manager.wait_for("WATCHDOG=1")
        balancer.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, balancer.process.pid, os.WSTOPPED)
        manager.drain()
        assert manager.listen(2 * WATCHDOG_US / 1e6) == []
        balancer.process.send_signal(signal.SIGCONT)
        manager.wait_for("WATCHDOG=1")
        balancer.process.terminate()
        manager.wait_for("STOPPING=1")
        assert balancer.process.wait(PATIENCE_S) == 0
