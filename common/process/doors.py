"""The listening sockets that `ratel up` keeps open for its children, from one of their lives to the next."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping
from typing import Final

from common.addresses import Address

BACKLOG: Final = 1024
"""Connections that wait while a child is being restarted: as many as the gateways themselves let wait."""


class CannotOpen(Exception):
    pass


class Doors:
    """By name, as the children know them. In `addresses`, port 0 is the one that was free.

    Where several doors share their ports (`shared`, SO_REUSEPORT), the kernel shares the connections out
    among their sockets, not among processes: those that wait at the door of a child that has died would wait
    for its next life, although others could take them. `renew` gives them up, and the others get what comes.
    """

    def __init__(self, addresses: Mapping[str, Address], *, shared: bool = False) -> None:
        """Raises CannotOpen where something else listens, which no restart of a child would mend."""
        self._shared = shared
        self.sockets: dict[str, socket.socket] = {}
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            for name, address in addresses.items():
                self.sockets[name] = self._open(address)
            undo.pop_all()
        self.addresses = {
            name: address._replace(port=int(self.sockets[name].getsockname()[1]))
            for name, address in addresses.items()
        }

    def join(self, other: Doors) -> None:
        """Have the other's sockets, too."""
        self.sockets |= other.sockets
        self.addresses |= other.addresses

    def renew(self) -> None:
        if not self._shared:
            return
        for name, address in self.addresses.items():
            self.sockets[name].close()
            self.sockets[name] = self._open(address)

    def close(self) -> None:
        for listener in self.sockets.values():
            listener.close()

    def _open(self, address: Address) -> socket.socket:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        try:
            return socket.create_server(
                (address.host, address.port), family=family, backlog=BACKLOG, reuse_port=self._shared
            )
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
            raise CannotOpen(f"can't listen on {address}: {reason}") from None


def open_several(count: int, addresses: Mapping[str, Address]) -> list[Doors]:
    """So many doors that share their ports. Raises CannotOpen."""
    first = Doors(addresses, shared=True)
    return [first, *(Doors(first.addresses, shared=True) for _ in range(count - 1))]
