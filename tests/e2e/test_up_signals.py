"""`ratel up` is stopped in every phase of its start, and leaves nothing running."""

from __future__ import annotations

import fcntl
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.cluster import SAMPLE_TARIFF, START_WITHIN_S, Cluster

MARK = "RATEL_TEST_MARK"
EXAMPLE = "GetCost CstmId=vdf Subject=rif DestinationPrefix=0256"


@dataclass(frozen=True)
class Start:
    """A cluster that is starting, and all processes that come of it, whoever their parents are."""

    cluster: Cluster
    mark: bytes

    def has(self, name: str) -> bool:
        return (self.cluster.data / name).exists()

    def said(self, beginning: str) -> bool:
        return any(line.strip().startswith(beginning) for line in list(self.cluster.up.lines))

    def runs(self, part: str, count: int = 1) -> bool:
        return len(self.cluster.processes(part)) >= count

    def left(self) -> list[str]:
        """The command lines of processes that were started by this one and still run."""
        found = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdigit() and self.mark in (entry / "environ").read_bytes():
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        return found


StartUp = Callable[..., Start]


@pytest.fixture
def start_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[StartUp]:
    """Begin to start a cluster; at the end nothing of it runs, and nothing had to be killed."""
    mark = secrets.token_hex(8)
    monkeypatch.setenv(MARK, mark)
    started: list[Start] = []

    def start_up(*arguments: str) -> Start:
        started.append(Start(Cluster(tmp_path / "data folder", *arguments), f"{MARK}={mark}".encode()))
        return started[-1]

    yield start_up
    for start in started:
        start.cluster.kill_everything()
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert "killing it" not in said, "every part stopped of itself"


MOMENTS: dict[str, Callable[[Start], bool]] = {
    "the folder is locked": lambda start: start.has("lock"),
    "the store's process is there": lambda start: start.runs(""),
    "the store's lock is made": lambda start: start.has("store.lock"),
    "the store says where": lambda start: start.has("store.url"),
    "the store listens": lambda start: start.has("store.sock"),
    "the first rater's process is there": lambda start: start.runs("common.cli rater"),
    "the balancer's process is there": lambda start: start.runs("common.cli balancer"),
    "the addresses are said": lambda start: start.said("store"),
    "the last address is said": lambda start: start.said("router"),
    "the loader's process is there": lambda start: start.runs("common.cli load"),
    "it is ready": lambda start: start.said("ready"),
    "the example runs": lambda start: start.runs("common.cli call"),
}


def reach(start: Start, moment: Callable[[Start], bool]) -> None:
    give_up_s = time.monotonic() + START_WITHIN_S
    while not moment(start):
        assert start.cluster.up.process.poll() is None, start.cluster.up.lines
        assert time.monotonic() < give_up_s, "it did not happen"
        time.sleep(0.001)  # no moment is shorter, and what is to start needs the processor, too


def stop_and_look(start: Start, number: signal.Signals) -> None:
    up = start.cluster.up
    up.process.send_signal(number)
    up.process.send_signal(signal.SIGINT)  # impatience changes nothing
    assert up.wait() == 0, up.lines
    assert up.lines[-2:] == ["stopping", "stopped"]
    assert not start.left()
    assert not start.has("store.sock")


def lock(path: Path) -> int:
    """Raises BlockingIOError if another process holds it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return file


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_start_can_be_stopped_at_any_moment(start_up: StartUp, moment: str) -> None:
    start = start_up("--load", str(SAMPLE_TARIFF), "--tenant", "vdf", "--example", EXAMPLE)
    reach(start, MOMENTS[moment])
    stop_and_look(start, (signal.SIGTERM, signal.SIGINT)[list(MOMENTS).index(moment) % 2])
    for name in ("lock", "store.lock"):  # a store's process shows no environment, but holds its lock
        os.close(lock(start.cluster.data / name))


def test_a_start_that_waits_for_the_store_can_be_stopped(start_up: StartUp, tmp_path: Path) -> None:
    (tmp_path / "data folder").mkdir()
    held = lock(tmp_path / "data folder" / "store.lock")
    start = start_up()
    reach(start, lambda start: start.runs("common.storage.embedded_store"))
    stop_and_look(start, signal.SIGTERM)
    os.close(held)


def test_a_start_that_waits_for_a_tariff_can_be_stopped(start_up: StartUp) -> None:
    start = start_up()
    hint = start.cluster.up.wait_for_line("waiting for a tariff")
    name = f"embedded:{start.cluster.data}"
    assert f"--store '{name}' PATH" in hint
    raters = start.cluster.rater_pids()
    assert len(raters) == 2
    # They find the store by the name that holds for every run, and no command line shows it.
    for pid in raters:
        assert f"RATEL_STORE={name}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        assert name.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
    stop_and_look(start, signal.SIGINT)
