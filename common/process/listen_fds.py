"""Listening sockets that a process is handed already open, by systemd or by `ratel up`.

The one who hands them over keeps them open. So while the process that accepts is being restarted, or has
crashed, the kernel queues new connections instead of refusing them, and two processes may accept from one
queue while one takes over from the other: nothing that waits in it is lost.

systemd says so as sd_listen_fds(3) has it: LISTEN_PID is whom it means, LISTEN_FDS how many there are, from
descriptor 3 on, LISTEN_FDNAMES their names, of `FileDescriptorName=` in the socket unit. `ratel up` can't
know a child's process id beforehand, and says RATEL_LISTEN_FDS=name=number:name=number.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Collection, Iterator, Mapping, MutableMapping
from typing import Final

from common.addresses import Address

FIRST_FD: Final = 3
"""SD_LISTEN_FDS_START."""

OURS: Final = "RATEL_LISTEN_FDS"
_SYSTEMD: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


class ListenFdsError(ValueError):
    """What was handed over can't be used; the text says what, and why."""


def take(
    names: Collection[str], environment: MutableMapping[str, str] = os.environ
) -> dict[str, socket.socket]:
    """The listening TCP sockets that were handed to this process, by name; to be closed by the caller.

    The variables are removed, so that no child takes them for its own. Raises ListenFdsError.
    """
    try:
        announced = list(_announced(environment))
    finally:
        for variable in (*_SYSTEMD, OURS):
            environment.pop(variable, None)
    for place, (name, fd) in enumerate(announced):
        if name not in names:
            raise ListenFdsError(f"descriptor {fd} is named {name!r}; expected one of {', '.join(names)}")
        if name in [other for other, _ in announced[:place]]:
            raise ListenFdsError(f"two descriptors are named {name!r}; expected one")
    with contextlib.ExitStack() as undo:
        taken = {name: undo.enter_context(_adopt(name, fd)) for name, fd in announced}
        undo.pop_all()
    return taken


def environment_of(listeners: Mapping[str, socket.socket]) -> dict[str, str]:
    """What a child has to find in its environment, that inherits these descriptors under their numbers."""
    if not listeners:
        return {}
    return {OURS: ":".join(f"{name}={listener.fileno()}" for name, listener in listeners.items())}


def address_of(listener: socket.socket) -> Address:
    """Where it listens: who opened it has decided that, not our settings."""
    host, port = listener.getsockname()[:2]
    return Address(host, port)


def _announced(environment: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    if ours := environment.get(OURS):
        for entry in ours.split(":"):
            name, _, number = entry.partition("=")
            yield name, _number(OURS, number)
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return  # none, or meant for a process that started this one
    count = _number("LISTEN_FDS", environment.get("LISTEN_FDS", ""))
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    if count != len(names):
        raise ListenFdsError(
            f"LISTEN_FDNAMES has {len(names)} names for {count} descriptors; "
            "each socket unit needs a FileDescriptorName="
        )
    for place, name in enumerate(names):
        yield name, FIRST_FD + place


def _number(variable: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 6):
        raise ListenFdsError(f"{variable}: expected a number, not {text!r}")
    return int(text)


def _adopt(name: str, fd: int) -> socket.socket:
    try:
        adopted = socket.socket(fileno=fd)
    except OSError as error:
        raise ListenFdsError(f"{name}: descriptor {fd} is no socket: {error.strerror}") from None
    listens = adopted.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if adopted.family not in (socket.AF_INET, socket.AF_INET6) or not listens:
        adopted.close()
        raise ListenFdsError(f"{name}: descriptor {fd} is no TCP socket that listens")
    os.set_inheritable(fd, False)
    # For all who have it: of two processes that are told of a connection only one gets it.
    adopted.setblocking(False)
    return adopted
