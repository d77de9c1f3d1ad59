"""What one client of a gateway may take, and all of them: settings with their defaults, and why these.

What no operator has a reason to change stays a constant where it is used: how deep a message may be nested
(`common.rpc.jsonrpc.Limits`), how long a head may be (`balancer.http.reader`). What a key or a tenant may
ask is in the file of keys (`common.security.api_keys`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from balancer.http.patience import KEEP_ALIVE_S, READ_TIMEOUT_S
from balancer.http.reader import MAX_BODY_BYTES

MAX_CONNECTIONS: Final = 10_000
"""Of each gateway. Over TCP some 30 KB each, over HTTP some 3 KB. A switch needs one; this is for hundreds of
hosts with pools of them."""

MAX_IN_FLIGHT: Final = 1_000
"""Calls of one connection over TCP. Above it reading stops, so a client can't fill the queue alone; under
overload further calls are refused instead, so that it learns of that at once. An HTTP connection has one."""

MAX_UNSENT_MIB: Final = 128
"""Of each gateway, in answers that clients have not read yet. Those who read leave next to nothing. Twice as
much memory for each of two gateways is within what the systemd units allow."""


@dataclass(frozen=True, slots=True)
class ClientLimits:
    max_connections: int = MAX_CONNECTIONS
    max_in_flight: int = MAX_IN_FLIGHT
    max_message_bytes: int = MAX_BODY_BYTES
    """Of a message over TCP and of a body over HTTP. No more than the default: it has to fit into a frame."""
    read_timeout_s: float = READ_TIMEOUT_S
    keep_alive_s: float = KEEP_ALIVE_S
    max_unsent_bytes: int = MAX_UNSENT_MIB * 2**20


DEFAULT_CLIENT_LIMITS: Final = ClientLimits()
