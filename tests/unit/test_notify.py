"""What is said to the service manager, word for word, on a socket of its kind."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.process import notify
from common.process.notify import FEEDS_A_TIMEOUT, START_EXTENSION_US, Notifier


class Manager:
    """The service manager's end."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address.replace("@", "\0", 1))
        self.socket.setblocking(False)

    def heard(self) -> list[str]:
        messages = []
        while True:
            try:
                messages.append(self.socket.recv(65536).decode())
            except BlockingIOError:
                return messages


class Clock:
    def __init__(self) -> None:
        self.us = 1_000_000

    def __call__(self) -> int:
        return self.us


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Manager]:
    address = f"{tmp_path}/notify" if request.param == "path" else f"@ratel-test-{secrets.token_hex(8)}"
    manager = Manager(address)
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    yield manager
    manager.socket.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(notify, "monotonic_us", clock)
    return clock


@pytest.fixture
def notifier(manager: Manager, clock: Clock) -> Iterator[Notifier]:
    notifier = Notifier()
    yield notifier
    notifier.close()


def test_ready_and_stopping_are_said_once(manager: Manager, notifier: Notifier) -> None:
    for _ in range(3):
        notifier.ready()
    for _ in range(3):
        notifier.stopping()
    assert manager.heard() == ["READY=1", "STOPPING=1"]


def test_a_status_is_sent_when_it_changes_and_is_one_line(manager: Manager, notifier: Notifier) -> None:
    for text in ("draining", "draining", "a\nREADY=1", "draining"):
        notifier.status(text)
    assert manager.heard() == ["STATUS=draining", "STATUS=a READY=1", "STATUS=draining"]


def test_the_variables_are_not_inherited(manager: Manager, notifier: Notifier) -> None:
    assert "NOTIFY_SOCKET" not in os.environ


def test_without_a_service_manager_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    for address in (None, "", "vsock:2:1234", "relative"):
        if address is None:
            monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
        else:
            monkeypatch.setenv("NOTIFY_SOCKET", address)
        notifier = Notifier()
        notifier.status("x")
        notifier.ready()
        notifier.alive()
        notifier.stopping()
        notifier.close()


def test_a_socket_that_is_gone_raises_nothing(manager: Manager, notifier: Notifier) -> None:
    manager.socket.close()
    notifier.ready()
    notifier.alive()


def test_the_watchdog_is_fed_four_times_in_its_time_however_often_the_loop_turns(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "8000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    notifier = Notifier()
    notifier.ready()
    manager.heard()
    end_us = clock.us + 8_000_000
    while clock.us < end_us:
        notifier.alive()
        clock.us += 1_000
    assert manager.heard() == ["WATCHDOG=1"] * FEEDS_A_TIMEOUT
    assert "WATCHDOG_USEC" not in os.environ
    assert "WATCHDOG_PID" not in os.environ
    notifier.close()


@pytest.mark.parametrize(("usec", "pid"), [("8000000", "1"), ("", ""), ("soon", ""), ("-5", ""), ("0", "")])
def test_no_watchdog_of_ours_is_not_fed(
    usec: str, pid: str, manager: Manager, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", pid)
    notifier = Notifier()
    notifier.ready()
    for _ in range(100):
        notifier.alive()
        clock.us += 1_000_000
    assert manager.heard() == ["READY=1"]
    notifier.close()


def test_a_loop_that_turns_but_is_not_ready_yet_asks_for_more_time(
    manager: Manager, notifier: Notifier, clock: Clock
) -> None:
    for _ in range(10):
        notifier.alive()
        clock.us += START_EXTENSION_US // FEEDS_A_TIMEOUT
        notifier.alive()
    assert set(manager.heard()) == {f"EXTEND_TIMEOUT_USEC={START_EXTENSION_US}"}
    notifier.ready()
    manager.heard()
    clock.us += START_EXTENSION_US
    notifier.alive()
    assert manager.heard() == []


def test_a_manager_that_has_no_room_is_told_later_and_nobody_waits(
    manager: Manager, notifier: Notifier
) -> None:
    told = 0
    while not notifier._unsent:
        notifier.status(f"line {told}")
        told += 1
    notifier.status("the last one")
    notifier.ready()
    assert not any("READY" in message for message in manager.heard())
    notifier.alive()
    assert manager.heard() == ["STATUS=the last one\nREADY=1"]
    notifier.alive()
    assert manager.heard() == []
