"""Where a listener listens: `HOST:PORT`, with an IPv6 host in brackets, `[::1]:2001`.

Port 0 asks the system for a free port; what it gave is found on the bound socket.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

if TYPE_CHECKING:
    _ParamType = click.ParamType["Address"]
else:
    _ParamType = click.ParamType  # generic in new releases only

MAX_PORT: Final = 65_535


class Address(NamedTuple):
    host: str
    """A name, an IPv4 address, or an IPv6 address without brackets."""
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Raises ValueError whose text says what is wrong with `text` and what was expected."""
    host, colon, port_text = text.rpartition(":")
    if not colon:
        raise ValueError(f"expected HOST:PORT such as 127.0.0.1:2001, not {text!r}")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"an IPv6 host is written in brackets, such as [::1]:2001, not {text!r}")
    if not host or any(character in host for character in "[]/ "):
        raise ValueError(f"expected a host before the port, such as 127.0.0.1:2001, not {text!r}")
    # isdecimal() alone would take the digits of other scripts.
    if not (port_text.isascii() and port_text.isdecimal()) or int(port_text[:6]) > MAX_PORT:
        raise ValueError(f"expected a port from 0 to {MAX_PORT}, not {port_text!r}")
    return Address(host, int(port_text))


EXPOSED: Final = (
    "won't listen on {} (--router): without --curve-key, whoever can reach it may join as a rater and take "
    "requests; --insecure-router says that this is meant"
)

NOWHERE: Final = "none"


class AddressType(_ParamType):
    """The type of a command's `HOST:PORT` option; None for `none`, where that may be said."""

    name = "host:port"

    def __init__(self, *, or_none: bool = False) -> None:
        self._or_none = or_none

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Address | None:  # type: ignore[override]
        if isinstance(value, Address):
            return value
        if self._or_none and value == NOWHERE:
            return None
        try:
            return parse_address(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
