"""The end of listening: whoever is connected already, and waits to be accepted, is still let in.

Closing a listening socket resets what waits in its queue, unless another process has it open, too. Between
the last look of the event loop and the close there is the work of a turn; here there is nothing. What is left
is a connection that comes about between two system calls: see docs/deploy.md, "Upgrading and scaling".
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable


async def accept_the_rest(listener: socket.socket, arrive: Callable[[], asyncio.BaseProtocol]) -> None:
    """Until nobody waits. The caller closes the socket without awaiting anything first."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            arrived, _ = listener.accept()
        except OSError:  # nobody is left, or there are no descriptors for more
            return
        await loop.connect_accepted_socket(arrive, arrived)
