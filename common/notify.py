"""Telling whoever started this process that it is ready: sd_notify(3), to systemd and to `ratel up`."""

from __future__ import annotations

import os
import secrets
import socket
from contextlib import suppress

VARIABLE = "NOTIFY_SOCKET"
READY = "READY=1"


def notify(*lines: str) -> None:
    """Say this, if anybody wants to hear it. Nobody's absence is an error."""
    address = os.environ.get(VARIABLE, "")
    if not address.startswith(("/", "@")):
        return
    if address[0] == "@":
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, suppress(OSError):
        sender.sendto("\n".join(lines).encode(), address)


class Listener:
    """Hears what one child says. The name is a secret, as anybody on this machine could say something."""

    def __init__(self) -> None:
        name = f"ratel-{secrets.token_hex(16)}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(f"\0{name}")
        self.environment = {VARIABLE: f"@{name}"}
        self._ready = False

    @property
    def ready(self) -> bool:
        """Whether it has ever said so."""
        with suppress(BlockingIOError):
            while not self._ready:
                self._ready = READY in self._socket.recv(4096).decode(errors="replace").splitlines()
        return self._ready

    def close(self) -> None:
        self._socket.close()
