"""Who connects to a gateway: from the open listening socket, over TLS where it is spoken, to the last accept.

At the end of listening whoever is connected already, and waits to be accepted, is still let in. Closing a
listening socket resets what waits in its queue, unless another process has it open, too. Between the last
look of the event loop and the close there is the work of a turn; in `stop` there is nothing. What is left is
a connection that comes about between two system calls: see docs/deploy.md, "Upgrading and scaling".
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from balancer.tls_entrance import TlsEntrance

BACKLOG: Final = 1024


class Arrivals:
    def __init__(self, make: Callable[[], asyncio.Protocol], entrance: TlsEntrance | None) -> None:
        """`make` gives a connection its protocol; an `entrance` does so for those that have shaken hands."""
        self._arrive = make if entrance is None else entrance
        self._entrance = entrance
        self._listener: socket.socket | None = None
        self._server: asyncio.Server | None = None

    async def open(self, listener: socket.socket) -> None:
        self._listener = listener
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._arrive, sock=listener, backlog=BACKLOG)

    @property
    def shake_hands(self) -> bool:
        """Somebody is between connecting and being a connection of the gateway."""
        return self._entrance is not None and self._entrance.is_busy

    async def stop(self) -> None:
        """Accept all who wait, then no more."""
        if self._server is not None and self._listener is not None:
            await self._accept_the_rest(self._listener)
            self._server.close()

    def abandon_handshakes(self) -> None:
        if self._entrance is not None:
            self._entrance.stop()

    async def _accept_the_rest(self, listener: socket.socket) -> None:
        """Until nobody waits. The caller closes the socket without awaiting anything first."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                arrived, _ = listener.accept()
            except OSError:  # nobody is left, or there are no descriptors for more
                return
            await loop.connect_accepted_socket(self._arrive, arrived)
