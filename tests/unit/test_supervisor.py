"""Children are started, restarted with a growing pause, and stopped in order."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from common.supervisor import FIRST_PAUSE_S, HEALTHY_AFTER_S, LONGEST_PAUSE_S, Child, Supervisor

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]


def sleeper(stop_within_s: float = 10.0) -> Child:
    return Child("sleeper", lambda: SLEEPER, stop_within_s=stop_within_s)


def die(child: Child) -> None:
    assert child.process is not None
    child.process.kill()
    child.process.wait()


def test_a_child_that_dies_is_started_again_after_a_pause_that_doubles_to_a_bound() -> None:
    child = sleeper()
    now_s = 0.0
    child.start(now_s)
    pause_s = FIRST_PAUSE_S
    for _ in range(8):
        first = child.pid
        die(child)
        child.watch(now_s)  # notices
        child.watch(now_s + pause_s * 0.9)
        assert child.pid == first
        now_s += pause_s
        child.watch(now_s)
        assert child.pid != first
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
    die(child)


def test_a_child_that_ran_well_is_started_again_at_once() -> None:
    child = sleeper()
    child.start(0.0)
    for now_s in (1.0, 2.0, 4.0):
        die(child)
        child.watch(now_s)
        child.watch(now_s + LONGEST_PAUSE_S)
    died_s = 4.0 + LONGEST_PAUSE_S + HEALTHY_AFTER_S
    before = child.pid
    die(child)
    child.watch(died_s)
    child.watch(died_s + FIRST_PAUSE_S)
    assert child.pid != before
    die(child)


def test_the_command_is_asked_for_at_each_start() -> None:
    starts: list[int] = []

    def command() -> list[str]:
        starts.append(len(starts))
        return SLEEPER

    child = Child("counted", command, stop_within_s=10.0)
    child.start(0.0)
    die(child)
    child.watch(0.0)
    child.watch(10.0)
    assert starts == [0, 1]
    die(child)


def test_groups_are_stopped_in_reverse_order(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = (
        "import signal, sys, pathlib\n"
        "def stop(*_):\n"
        "    with open(sys.argv[1], 'a') as log: log.write(sys.argv[2] + '\\n')\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "pathlib.Path(sys.argv[1] + sys.argv[2]).touch()\n"
        "signal.pause()\n"
    )

    def child(name: str) -> Child:
        return Child(name, lambda: [sys.executable, "-c", code, str(log), name], stop_within_s=10.0)

    supervisor = Supervisor()
    supervisor.add(child("first"))
    supervisor.add(child("second"))
    while not all(Path(f"{log}{name}").exists() for name in ("first", "second")):
        supervisor.watch()
    supervisor.stop()
    assert log.read_text().split() == ["second", "first"]


def test_a_child_that_does_not_stop_is_killed() -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    child = Child("deaf", lambda: [sys.executable, "-c", code], stop_within_s=0.1)
    child.start(0.0)
    child.terminate()
    child.join()
    assert child.process is not None
    assert child.process.returncode in (-signal.SIGKILL, -signal.SIGTERM)  # TERM if it came first
