"""Who sends an HTTP request, by the API key in its head; and that its answer is counted.

    Authorization: Bearer ratel_…        X-API-Key: ratel_…

The key is looked at in every request, so that one that was revoked is refused on open connections, too.
from nowhere else: what stands in a query is written into logs and histories everywhere.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Final

from balancer.actions import OnAnswer
from balancer.http.message import Request
from common.errors import Forbidden, Unauthorized, decode_error
from common.security.keyring import MISSING, Grant, Keyring
from common.security.meters import Meter, take

CHALLENGE: Final = b'www-authenticate: Bearer realm="ratel"\r\n'
"""What a 401 has to say. Source: RFC 9110 §11.6.1, RFC 6750 §3."""

_SCHEME: Final = b"bearer "
_FORWARDING: Final = (b"forwarded", b"via", b"x-forwarded-for", b"x-real-ip")


def grant_of(keyring: Keyring, request: Request) -> Grant:
    """Raises Unauthorized."""
    keys: list[bytes] = []
    for name, value in request.headers:
        if len(name) == 13 and name.lower() == b"authorization":
            if value[:7].lower() != _SCHEME:
                raise Unauthorized(detail="expected Authorization: Bearer and an API key")
            keys.append(value[7:].strip())
        elif len(name) == 9 and name.lower() == b"x-api-key":
            keys.append(value.strip())
    if not keys:
        raise Unauthorized(detail=f"{MISSING.message}: Authorization: Bearer …")
    if len(keys) > 1:
        raise Unauthorized(detail="more than one API key")
    return keyring.verify(keys[0].decode("latin-1"), time.time())


def may_watch(keyring: Keyring, request: Request) -> Grant | None:
    """Whether the sender may see how the service does: an operator, or somebody on this host.

    Who came through a proxy on this host is nobody of this host. The grant of the key, if one was needed.
    Raises Unauthorized or Forbidden.
    """
    forwarded = any(name.lower() in _FORWARDING for name, _ in request.headers)
    if request.responder.is_local and not forwarded:
        return None
    grant = grant_of(keyring, request)
    if not grant.may_watch:
        raise Forbidden(what="how the service does, it needs the group operator, for all tenants")
    return grant


def admit_one(grant: Grant) -> None:
    """Take the room for one request. Raises TooManyRequests."""
    admitted, error = take(grant.meters, 1, time.monotonic())
    if not admitted:
        raise decode_error(error)


def metered(meters: tuple[Meter, ...], callback: OnAnswer) -> OnAnswer:
    """The callback for what these have admitted: it gives the room back first."""
    return partial(_count, meters, callback)


def _count(meters: tuple[Meter, ...], callback: OnAnswer, code: int, body: bytes, replayed: bool) -> None:
    for meter in meters:
        meter.give_back()
    callback(code, body, replayed)
