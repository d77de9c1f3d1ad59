"""Children are started, restarted with a growing pause, and stopped in order."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from common.addresses import Address
from common.supervisor import (
    FIRST_PAUSE_S,
    HEALTHY_AFTER_S,
    LONGEST_PAUSE_S,
    Child,
    Stopped,
    StopSignals,
    Supervisor,
)
from common.up_command import _claim

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
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})\n"
        "pathlib.Path(sys.argv[1] + sys.argv[2]).touch()\n"
        "signal.sigwait({signal.SIGTERM})\n"
        "with open(sys.argv[1], 'a') as log: log.write(sys.argv[2] + '\\n')\n"
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


# --- starts that fail -----------------------------------------------------------------------------


def test_a_restart_that_fails_is_tried_again_after_the_usual_pauses(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failures: list[Exception] = []
    tries: list[int] = []

    def command() -> list[str]:
        tries.append(len(tries))
        if failures:
            raise failures.pop()
        return SLEEPER

    child = Child("unlucky", command, stop_within_s=10.0)
    child.start(0.0)
    first = child.pid
    die(child)
    failures += [
        ValueError("no server"),
        OSError(errno.EAGAIN, "Resource temporarily unavailable"),
        subprocess.SubprocessError("preexec"),
    ]
    now_s, pause_s = 0.0, FIRST_PAUSE_S
    child.watch(now_s)
    for failed in range(1, 4):
        now_s += pause_s
        child.watch(now_s)
        assert len(tries) == 1 + failed
        pause_s *= 2
        child.watch(now_s + pause_s * 0.9)
        assert len(tries) == 1 + failed, "not before the pause is over"
    assert child.pid == first
    child.watch(now_s + pause_s)
    assert child.pid != first
    assert "child=unlucky can't be started error='[Errno 11] Resource temporarily" in caplog.text
    die(child)


def test_a_child_whose_restart_failed_can_be_stopped() -> None:
    answers = [SLEEPER]
    child = Child("gone", answers.pop, stop_within_s=10.0)
    child.start(0.0)
    die(child)
    child.watch(0.0)
    child.watch(1.0)
    child.terminate()
    child.join()
    child.watch(1_000.0)


def test_a_child_that_a_real_time_signal_ended_is_started_again() -> None:
    child = sleeper()
    child.start(0.0)
    first = child.pid
    assert child.process is not None
    child.process.send_signal(signal.SIGRTMIN + 3)
    child.process.wait()
    child.watch(0.0)
    child.watch(1.0)
    assert child.pid != first
    die(child)


# --- signals --------------------------------------------------------------------------------------


@pytest.fixture
def stop() -> Iterator[StopSignals]:
    """Signals as `ratel up` has them; afterwards they are as before."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    made = StopSignals()
    yield made
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)
    os.close(signal.set_wakeup_fd(-1))
    os.close(made._pipe)


def test_a_signal_is_noted_even_where_exceptions_are_discarded(stop: StopSignals) -> None:
    class Finalized:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    stop.wait(0.0)
    Finalized()
    for _ in range(2):
        with pytest.raises(Stopped):
            stop.wait(0.0)


def test_a_signal_while_a_child_is_started_leaves_the_child_known(stop: StopSignals) -> None:
    class Interrupted(list[str]):
        """Arguments of a command that are read when its process is about to be made."""

        def __iter__(self) -> Iterator[str]:
            signal.raise_signal(signal.SIGINT)
            return super().__iter__()

    child = Child("known", lambda: Interrupted(SLEEPER), stop_within_s=10.0)
    child.start(0.0)
    with pytest.raises(Stopped):
        stop.wait(0.0)
    child.terminate()
    child.join()
    assert child.process is not None
    assert child.process.returncode == -signal.SIGTERM


def test_a_signal_ends_a_wait_at_once(stop: StopSignals) -> None:
    thread = threading.Thread(target=lambda: os.kill(os.getpid(), signal.SIGINT))
    thread.start()
    with pytest.raises(Stopped):
        stop.wait(3_600.0)  # longer than any test may take
    thread.join()


def test_signals_without_number_change_nothing_after_the_first(stop: StopSignals) -> None:
    for _ in range(70_000):  # more than the pipe can take
        signal.raise_signal(signal.SIGTERM)
    with pytest.raises(Stopped):
        stop.wait(0.0)


def test_a_signal_while_the_interpreter_ends_does_not_change_the_exit_code() -> None:
    program = (
        "import os, signal\n"
        "from common import supervisor, up_command\n"
        "class Late:\n"
        "    def __del__(self, kill=os.kill, pid=os.getpid(), number=signal.SIGINT): kill(pid, number)\n"
        "def stopped(*_): raise supervisor.Stopped\n"
        "up_command._claim = stopped\n"
        "late = Late()\n"
        "up_command.up([])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "stopping\nstopped\n", "")


# --- ports ----------------------------------------------------------------------------------------


def test_free_ports_are_all_different() -> None:
    free = [Address("127.0.0.1", 0)] * 200
    ports = [address.port for address in _claim(*free)]
    assert 0 not in ports
    assert len(set(ports)) == 200


def test_one_address_can_t_be_claimed_twice() -> None:
    [address] = _claim(Address("127.0.0.1", 0))
    with pytest.raises(click.ClickException, match=f"can't listen on {address}"):
        _claim(address, address)
