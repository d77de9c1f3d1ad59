"""Tells the service manager how a process is: sd_notify(3), over the socket that `$NOTIFY_SOCKET` names.

Without that variable, outside systemd, all of it does nothing. Nothing here ever waits or raises: a service
manager that is busy must not hold up a work loop. What it had no room for goes out with the next message.

`alive` is for work loops. It feeds the watchdog that the unit asks for (`WatchdogSec=`), four times in its
time, so a loop may call it as often as it likes; for one that stands still nobody else speaks.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Final

from common.clock import monotonic_us

FEEDS_A_TIMEOUT: Final = 4
"""One or two that are late do no harm."""

START_EXTENSION_US: Final = 15_000_000
"""Asked for from a loop that turns but isn't ready yet: a store that is away is to be waited for. Far above
the time that a turn takes; one that is stuck is given up after this."""


class Notifier:
    """One for a process. It takes the variables out of the environment, so that no child speaks for us."""

    def __init__(self) -> None:
        self._address = _address(os.environ.pop("NOTIFY_SOCKET", ""))
        self._feed_every_us = _watchdog_us() // FEEDS_A_TIMEOUT
        self._feed_at_us = 0
        self._extend_at_us = 0
        self._said: dict[str, str] = {}
        self._unsent: dict[str, str] = {}
        self._socket: socket.socket | None = None
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)

    def ready(self) -> None:
        """The start is over: whatever was ordered after this unit may begin. Saying it again does nothing."""
        self._say("READY", "1")

    @property
    def said_ready(self) -> bool:
        return "READY" in self._said

    def stopping(self) -> None:
        self._say("STOPPING", "1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`; sent when it is another one than before."""
        self._say("STATUS", text.replace("\n", " "))

    def alive(self) -> None:
        """A turn of the work loop: keeps the watchdog quiet, and before `ready` the limit of the start."""
        if self._socket is None:
            return
        now_us = monotonic_us()
        if not self.said_ready:
            if now_us >= self._extend_at_us:
                self._extend_at_us = now_us + START_EXTENSION_US // FEEDS_A_TIMEOUT
                self._send({"EXTEND_TIMEOUT_USEC": str(START_EXTENSION_US)})
        elif self._feed_every_us and now_us >= self._feed_at_us:
            self._feed_at_us = now_us + self._feed_every_us
            self._send({"WATCHDOG": "1"})
        elif self._unsent:
            self._send({})

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _say(self, name: str, value: str) -> None:
        if self._said.get(name) != value:
            self._said[name] = value
            self._send({name: value})

    def _send(self, fields: dict[str, str]) -> None:
        if self._socket is None:
            return
        fields = self._unsent | fields
        message = "\n".join(f"{name}={value}" for name, value in fields.items())
        self._unsent = {}
        try:
            self._socket.sendto(message.encode(), self._address)
        except BlockingIOError:
            self._unsent = fields
        except OSError:  # nobody listens any more: there is nothing to be told
            self.close()


def _address(name: str) -> str:
    """`@` begins the name of a socket that is in no file system; other kinds than these two are not ours."""
    if name.startswith("@"):
        return f"\0{name[1:]}"
    return name if name.startswith("/") else ""


def _watchdog_us() -> int:
    """0 where nobody wants it, or wants it of another process."""
    usec, pid = os.environ.pop("WATCHDOG_USEC", ""), os.environ.pop("WATCHDOG_PID", "")
    if pid and pid != str(os.getpid()):
        return 0
    with contextlib.suppress(ValueError):
        return max(0, int(usec))
    return 0
