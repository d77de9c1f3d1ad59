"""Sockets that were handed over: by systemd's protocol and by ours, each checked before it is used."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from common.process import listen_fds
from common.process.listen_fds import ListenFdsError, environment_of, take

NAMES = ("jsonrpc", "http", "router")


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def handed(listener: socket.socket, count: int = 1) -> list[int]:
    """Copies, as a child inherits them: whoever takes them over closes them."""
    return [os.dup(listener.fileno()) for _ in range(count)]


def systemd(monkeypatch: pytest.MonkeyPatch, first: int, **variables: str) -> dict[str, str]:
    """An environment as systemd makes it, but that the descriptors may have any numbers."""
    monkeypatch.setattr(listen_fds, "FIRST_FD", first)
    return {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "http"} | variables


def test_nothing_handed_over_is_nothing() -> None:
    assert take(NAMES, {}) == {}


def test_sockets_of_systemd_are_taken_by_name(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    [fd] = handed(listener)
    environment = systemd(monkeypatch, fd) | {"OTHER": "stays"}
    taken = take(NAMES, environment)
    assert environment == {"OTHER": "stays"}, "no child takes them for its own"
    assert taken["http"].fileno() == fd
    assert taken["http"].getsockname() == listener.getsockname()
    assert not taken["http"].getblocking()
    assert not os.get_inheritable(fd)
    taken["http"].close()


def test_what_systemd_handed_to_another_process_is_left_alone(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert take(NAMES, systemd(monkeypatch, listener.fileno(), LISTEN_PID="1")) == {}


def test_a_parent_of_ours_says_the_numbers(listener: socket.socket) -> None:
    first, second = handed(listener, 2)
    with socket.socket(fileno=first) as one, socket.socket(fileno=second) as two:
        environment = environment_of({"jsonrpc": one, "router": two})
        one.detach()
        two.detach()
    assert environment_of({}) == {}
    taken = take(NAMES, environment)
    assert {name: sock.fileno() for name, sock in taken.items()} == {"jsonrpc": first, "router": second}
    for sock in taken.values():
        sock.close()


@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        ({"LISTEN_FDNAMES": "web"}, "is named 'web'; expected one of jsonrpc, http, router"),
        ({"LISTEN_FDNAMES": ""}, "is named ''"),
        ({"LISTEN_FDS": "2"}, "LISTEN_FDNAMES has 1 names for 2 descriptors"),
        ({"LISTEN_FDS": "many"}, "LISTEN_FDS: expected a number, not 'many'"),
        ({"LISTEN_FDS": "-1"}, "LISTEN_FDS: expected a number, not '-1'"),
    ],
)
def test_what_is_announced_wrongly_is_one_clear_error(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], complaint: str
) -> None:
    with pytest.raises(ListenFdsError, match=complaint):
        take(NAMES, systemd(monkeypatch, listener.fileno(), **variables))


def test_one_name_twice_is_refused(listener: socket.socket) -> None:
    [fd] = handed(listener)
    with pytest.raises(ListenFdsError, match="two descriptors are named 'http'"):
        take(NAMES, {"RATEL_LISTEN_FDS": f"http={fd}:http={fd}"})
    os.close(fd)


def test_what_does_not_listen_is_refused() -> None:
    with socket.socket() as idle:
        fd = os.dup(idle.fileno())
        with pytest.raises(ListenFdsError, match=f"http: descriptor {fd} is no TCP socket that listens"):
            take(NAMES, {"RATEL_LISTEN_FDS": f"http={fd}"})
    with socket.socket(socket.AF_UNIX) as local:
        local.bind(f"\0ratel-test-{os.getpid()}")
        local.listen()
        fd = os.dup(local.fileno())
        with pytest.raises(ListenFdsError, match="is no TCP socket that listens"):
            take(NAMES, {"RATEL_LISTEN_FDS": f"http={fd}"})
    with open(os.devnull) as file, pytest.raises(ListenFdsError, match="is no socket"):
        take(NAMES, {"RATEL_LISTEN_FDS": f"http={file.fileno()}"})
    with pytest.raises(ListenFdsError, match="is no socket: Bad file descriptor"):
        take(NAMES, {"RATEL_LISTEN_FDS": "http=999"})
