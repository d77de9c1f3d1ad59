"""Children are started, restarted with a growing pause, and stopped in order."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from common.addresses import Address
from common.commands.up_parts import Wanted, open_doors
from common.process.doors import Doors, open_several
from common.process.supervisor import (
    FIRST_PAUSE_S,
    HEALTHY_AFTER_S,
    LONGEST_PAUSE_S,
    Child,
    NotReplaced,
    Stopped,
    StopSignals,
    Supervisor,
)

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]


def sleeper(stop_within_s: float = 10.0) -> Child:
    return Child("sleeper", lambda: SLEEPER, stop_within_s=stop_within_s)


def die(child: Child) -> None:
    assert child.process is not None
    child.process.kill()
    child.process.wait()


def end(child: Child) -> None:
    die(child)
    child.join()


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
    end(child)


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
    end(child)


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
    end(child)


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


# --- replacing ------------------------------------------------------------------------------------

SAYS_READY = (
    "import signal, time; from common.process.notify import Notifier\n"
    "signal.signal(signal.SIGTERM, lambda *_: exit(0)); Notifier().ready(); time.sleep(600)"
)


def talker(*programs: str) -> Child:
    """Its first life runs the first program, and so on; the last one again and again."""
    left = list(programs)

    def command() -> list[str]:
        return [sys.executable, "-c", left.pop(0) if len(left) > 1 else left[0]]

    return Child("talker", command, stop_within_s=10.0)


def test_a_successor_that_is_ready_takes_over_and_the_old_one_ends() -> None:
    child = talker(SAYS_READY)
    child.start(0.0)
    first = child.process
    assert first is not None
    while not child.ready:
        pass
    looks: list[bool] = []
    child.replace(lambda: looks.append(first.poll() is None), ready_within_s=60.0)
    assert looks[0], "the first one works while the second one begins"
    assert first.returncode == 0
    assert child.pid != first.pid
    assert child.ready
    child.terminate()
    child.join()


@pytest.mark.parametrize(
    ("successor", "why"),
    [
        ("raise SystemExit(3)", "ended with status 3"),
        ("import time; time.sleep(600)", "was not ready within"),
    ],
)
def test_a_successor_that_does_not_come_up_changes_nothing(successor: str, why: str) -> None:
    child = talker(SAYS_READY, successor, SAYS_READY)
    child.start(0.0)
    first = child.pid
    while not child.ready:
        pass
    with pytest.raises(NotReplaced, match=why):
        child.replace(lambda: child.watch(0.0), ready_within_s=0.5 if "within" in why else 60.0)
    assert child.pid == first
    assert child.process is not None
    assert child.process.poll() is None
    child.replace(lambda: child.watch(0.0), ready_within_s=60.0)
    assert child.pid != first
    child.terminate()
    child.join()


def test_a_stop_while_a_successor_begins_ends_both() -> None:
    child = talker(SAYS_READY, "import time; time.sleep(600)")
    child.start(0.0)

    def look() -> None:
        raise Stopped

    with pytest.raises(Stopped):
        child.replace(look, ready_within_s=60.0)
    both = child._processes
    assert len(both) == 2
    child.terminate()
    child.join()
    assert all(process.returncode is not None for process in both)


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
    end(child)


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
    end(child)


# --- signals --------------------------------------------------------------------------------------


@pytest.fixture
def stop() -> Iterator[StopSignals]:
    """Signals as `ratel up` has them; afterwards they are as before."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
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


def test_a_hangup_is_no_end_and_is_told_once(stop: StopSignals) -> None:
    signal.raise_signal(signal.SIGHUP)
    stop.wait(0.0)
    assert stop.take_hangup()
    assert not stop.take_hangup()
    signal.raise_signal(signal.SIGHUP)
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(Stopped):
        stop.wait(0.0)


def test_signals_without_number_change_nothing_after_the_first(stop: StopSignals) -> None:
    for _ in range(70_000):  # more than the pipe can take
        signal.raise_signal(signal.SIGTERM)
    with pytest.raises(Stopped):
        stop.wait(0.0)


def test_a_signal_while_the_interpreter_ends_does_not_change_the_exit_code() -> None:
    program = (
        "import os, signal\n"
        "from common.process import supervisor; from common.commands import up_command\n"
        "class Late:\n"
        "    def __del__(self, kill=os.kill, pid=os.getpid(), number=signal.SIGINT): kill(pid, number)\n"
        "def stopped(*_): raise supervisor.Stopped\n"
        "up_command.open_doors = stopped\n"
        "late = Late()\n"
        "up_command.up([])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "stopping\nstopped\n", "")


# --- ports ----------------------------------------------------------------------------------------


ANYWHERE = Address("127.0.0.1", 0)


def test_free_ports_are_all_different() -> None:
    doors = Doors({str(name): ANYWHERE for name in range(200)})
    ports = [address.port for address in doors.addresses.values()]
    doors.close()
    assert 0 not in ports
    assert len(set(ports)) == 200


def test_a_port_that_something_listens_on_stops_the_start() -> None:
    doors = Doors({"router": ANYWHERE})
    address = doors.addresses["router"]
    wanted = Wanted(
        raters=2,
        gateways=0,
        durability="everysec",
        replicas=1,
        jsonrpc=ANYWHERE,
        http=ANYWHERE,
        router=ANYWHERE,
        insecure_router=False,
        log_level="warning",
        guard=(),
    )
    with pytest.raises(click.ClickException, match=f"can't listen on {address}"):
        open_doors(wanted._replace(router=address))
    with pytest.raises(click.ClickException, match=f"can't listen on {address}"):
        open_doors(wanted._replace(gateways=2, jsonrpc=address))
    doors.close()


def test_what_waits_at_a_door_that_is_not_shared_survives_its_child() -> None:
    doors = Doors({"http": ANYWHERE})
    with socket.create_connection(doors.addresses["http"]) as client:
        doors.renew()
        server, _ = doors.sockets["http"].accept()
        server.sendall(b"!")
        assert client.recv(1) == b"!"
        server.close()
    doors.close()


def test_of_several_doors_one_whose_child_died_keeps_nobody_waiting() -> None:
    first, second = open_several(2, {"http": ANYWHERE})
    assert first.addresses == second.addresses
    first.renew()
    first.close()
    for _ in range(20):
        with socket.create_connection(second.addresses["http"]):
            second.sockets["http"].accept()[0].close()
    second.close()
