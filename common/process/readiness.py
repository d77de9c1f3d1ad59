"""The other side of `common.process.notify`: how `ratel up` hears that a child is ready."""

from __future__ import annotations

import secrets
import socket
from contextlib import suppress


class Listener:
    """Hears one child. The name is a secret, as anybody on this machine could say something."""

    def __init__(self) -> None:
        name = f"ratel-{secrets.token_hex(16)}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(f"\0{name}")
        self.environment = {"NOTIFY_SOCKET": f"@{name}"}
        self._ready = False

    @property
    def ready(self) -> bool:
        """Whether it has ever said so. Then there is no more to hear."""
        with suppress(BlockingIOError, OSError):
            while not self._ready and self._socket.fileno() >= 0:
                self._ready = b"READY=1" in self._socket.recv(4096).splitlines()
        if self._ready:
            self.close()
        return self._ready

    def close(self) -> None:
        self._socket.close()
