"""Whether others than this host can reach a listener, and the refusal to listen there unguarded.

An address of this host's loopback is a decision that nobody had to make. Any other one is: either there is
something that tells friends from strangers, or the operator has said that everybody there is a friend
(`--allow-insecure`).
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

from common.addresses import Address


def is_exposed(address: Address) -> bool:
    """Whether it is reached from elsewhere, too. Raises OSError for a name that can't be resolved."""
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    hosts = [str(resolved[0]).partition("%")[0] for *_, resolved in found]
    return not all(ipaddress.ip_address(host).is_loopback for host in hosts)


def resolve(address: Address) -> tuple[socket.AddressFamily, tuple[Any, ...]]:
    """Family and address of a socket that is to listen there. Raises OSError."""
    family, _, _, _, resolved = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    return family, resolved


def refusal(option: str, address: Address, remedy: str) -> str:
    """What to say instead of listening; `remedy` is a sentence about what would be safe."""
    return (
        f"won't listen on {address} ({option}): others than this host reach it, and anybody there could do "
        f"everything; {remedy}, or --allow-insecure to listen all the same"
    )


API_KEYS_REMEDY = "give --api-keys FILE to let in only who has a key"
