"""Child processes that are kept running: started, watched, restarted when they die, stopped in order.

A child that dies is started again after a pause that doubles from 0.1 s to 5 s and is forgotten
once it has run for 10 s: a crash costs one rater's share of the work for a moment, and a child
that can't start does not burn the machine.

A child can be replaced while it works: its successor is started beside it, and when that has said that it is
ready (`common.process.readiness`), the old one is told to end. A successor that fails changes nothing.

A signal that asks for the end is only noted when it comes. It becomes `Stopped` where the caller
waits, and nowhere else: raised in the middle of other code it could leave a child that nobody knows,
or be discarded where Python discards exceptions (finalizers, logging, the callbacks of a fork).
"""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Final

from common.process.child import die_with_parent
from common.process.doors import Doors
from common.process.listen_fds import environment_of
from common.process.readiness import Listener

log = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 5.0
HEALTHY_AFTER_S: Final = 10.0


class Stopped(Exception):
    """A signal asked for the end."""


class NotReplaced(Exception):
    """The successor did not come up; the child goes on as before."""


class StopSignals:
    """From its making on, SIGTERM and SIGINT are noted, and `wait` raises Stopped for them. So is SIGHUP, for
    `take_hangup`.

    There is one in a process, in its main thread, and it stays: further signals change nothing.
    """

    def __init__(self) -> None:
        # The interpreter writes each signal's number into the pipe.
        self._pipe, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._stopped = False
        self._hung_up = False
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda _number, _frame: None)

    def wait(self, timeout_s: float) -> None:
        """Sleep; a signal wakes it. Raises Stopped at once if one has ever come."""
        if not self._stopped and select.select([self._pipe], [], [], timeout_s)[0]:
            numbers = os.read(self._pipe, 64 * 1024)
            self._hung_up = self._hung_up or signal.SIGHUP in numbers
            # A full pipe has lost what came last, which may have been a request for the end. It is full of
            # signals that nobody sends by chance.
            self._stopped = len(numbers) == 64 * 1024 or any(number != signal.SIGHUP for number in numbers)
        if self._stopped:
            raise Stopped

    def take_hangup(self) -> bool:
        """Whether a SIGHUP has come since the last call of this."""
        hung_up, self._hung_up = self._hung_up, False
        return hung_up

    def ignore(self) -> None:
        """For the end, when no child will be started that would inherit it.

        An interpreter that ends gives handled signals their default back, which would be the exit status.
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)


class Child:
    """One process, kept running by `Supervisor`.

    `command` is asked for the arguments at each start, so that a restart can use what the first
    start found out, such as the port that was free. It inherits the sockets of `doors`.
    """

    def __init__(
        self,
        name: str,
        command: Callable[[], list[str]],
        *,
        stop_within_s: float,
        doors: Doors | None = None,
        can_be_replaced: bool = True,
    ) -> None:
        self.name = name
        self.can_be_replaced = can_be_replaced
        """Two of it may run side by side."""
        self.process: subprocess.Popen[bytes] | None = None
        self._successor: subprocess.Popen[bytes] | None = None
        self._leaving: subprocess.Popen[bytes] | None = None
        self._ear = Listener()
        self._doors = doors
        self._command = command
        self._stop_within_s = stop_within_s
        self._started_at = 0.0
        self._pause_s = FIRST_PAUSE_S
        self._start_again_at: float | None = None

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process else None

    @property
    def ready(self) -> bool:
        """The process that was started last has said so."""
        return self._ear.ready

    def start(self, now_s: float) -> None:
        self.process = self._launch()
        self._started_at = now_s
        self._start_again_at = None

    def _launch(self) -> subprocess.Popen[bytes]:
        self._ear.close()
        self._ear = Listener()
        sockets = self._doors.sockets if self._doors else {}
        # A process group of its own: Ctrl-C in a terminal must reach the parent alone, which then
        # stops the children in order.
        return subprocess.Popen(
            self._command(),
            stdin=subprocess.DEVNULL,
            preexec_fn=die_with_parent,
            process_group=0,
            pass_fds=[listener.fileno() for listener in sockets.values()],
            env=os.environ | environment_of(sockets) | self._ear.environment,
        )

    def watch(self, now_s: float) -> None:
        """Notice a death, and start again when the pause is over."""
        if self._successor is not None:
            return  # it takes over soon, or has failed
        if self._start_again_at is not None:
            if now_s >= self._start_again_at:
                self._try_to_start(now_s)
            return
        if self.process is None or self.process.poll() is None:
            return
        if now_s - self._started_at >= HEALTHY_AFTER_S:
            self._pause_s = FIRST_PAUSE_S
        log.warning(
            "child=%s ended status=%s restart_in_s=%s", self.name, _status(self.process), self._pause_s
        )
        if self._doors is not None:
            self._doors.renew()
        self._pause(now_s)

    def replace(self, look: Callable[[], None], ready_within_s: float) -> None:
        """Start its successor, and let it end once that is ready. Raises NotReplaced, and what `look` raises.

        `look` waits a moment, and has deaths noticed meanwhile.
        """
        give_up_s = time.monotonic() + ready_within_s
        try:
            successor = self._successor = self._launch()
            while not self._ear.ready:
                if successor.poll() is not None:
                    raise NotReplaced(f"its successor ended with status {_status(successor)}")
                if time.monotonic() > give_up_s:
                    raise NotReplaced(f"its successor was not ready within {ready_within_s:g} s")
                look()
        except (OSError, subprocess.SubprocessError, NotReplaced) as error:
            self._end_successor()
            raise NotReplaced(str(error)) from None
        self._leaving, self.process, self._successor = self.process, successor, None
        self._started_at = time.monotonic()
        self._start_again_at = None
        self._let_go(look)

    def _let_go(self, look: Callable[[], None]) -> None:
        leaving = self._leaving
        if leaving is None:
            return
        kill_at_s = time.monotonic() + self._stop_within_s
        if leaving.poll() is None:
            leaving.terminate()
        while leaving.poll() is None:
            if time.monotonic() > kill_at_s:
                log.warning("child=%s did not stop in %s s, killing it", self.name, self._stop_within_s)
                leaving.kill()
            look()
        self._leaving = None

    def _end_successor(self) -> None:
        successor, self._successor = self._successor, None
        if successor is not None:
            successor.kill()  # nobody has asked it for anything but to begin
            successor.wait()

    def _try_to_start(self, now_s: float) -> None:
        try:
            self.start(now_s)
        except Exception as error:  # no process to be had, or `command` failed: either may pass
            log.warning(
                "child=%s can't be started error=%r restart_in_s=%s", self.name, str(error), self._pause_s
            )
            self._pause(now_s)

    def _pause(self, now_s: float) -> None:
        self._start_again_at = now_s + self._pause_s
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def terminate(self) -> None:
        """Ask it to end; a child between two lives is not started again."""
        self._start_again_at = None
        for process in self._processes:
            if process.poll() is None:
                process.terminate()

    def join(self) -> None:
        """Wait for its end, and kill it when it takes longer than it may."""
        for process in self._processes:
            try:
                process.wait(self._stop_within_s)
            except subprocess.TimeoutExpired:
                log.warning("child=%s did not stop in %s s, killing it", self.name, self._stop_within_s)
                process.kill()
                process.wait()
        self._ear.close()

    @property
    def _processes(self) -> list[subprocess.Popen[bytes]]:
        """All of them, where a successor is about to take over, too."""
        processes = (self._successor, self.process, self._leaving)
        return [process for process in processes if process is not None]


def _status(process: subprocess.Popen[bytes]) -> str:
    code = process.returncode
    try:
        return signal.Signals(-code).name if code < 0 else str(code)
    except ValueError:  # a real-time signal, which has no name
        return f"signal-{-code}"


class Supervisor:
    """Starts children in the order they are added and stops them in the reverse order, by groups."""

    def __init__(self) -> None:
        self._groups: list[list[Child]] = []

    @property
    def children(self) -> list[Child]:
        return [child for group in self._groups for child in group]

    def add(self, *group: Child) -> None:
        """Start the children of one group; they will be stopped together.

        What stops one from starting is raised: a first start that fails is for the caller to explain.
        """
        self._groups.append(list(group))
        for child in group:
            child.start(time.monotonic())

    def watch(self) -> None:
        for child in self.children:
            child.watch(time.monotonic())

    def stop(self) -> None:
        for group in reversed(self._groups):
            for child in group:
                child.terminate()
            for child in group:
                child.join()
        self._groups.clear()
