"""Whose fault it is when the store answers a command with an error: ours, or its own state."""

from __future__ import annotations

from typing import Final

from redis.exceptions import ResponseError

from common.errors import InternalError, RatelError, StoreUnavailable
from common.storage.cluster_trip import NODE_LOST
from common.storage.store import Reply

_OUR_FAULTS: Final = ("ERR", "WRONGTYPE", "CROSSSLOT", "NOSCRIPT", "EXECABORT")
"""What a command that is wrong is answered with. Everything else is about the store's state: it is
loading, full, read-only, busy, refuses the password, can't write its file."""


def store_error(reply: Reply) -> RatelError:
    """The error for a reply that is not one of a command's own."""
    if not isinstance(reply, ResponseError):
        return InternalError(detail=f"an unexpected reply of the store: {reply!r:.80}")
    text = str(reply)
    if text.split(" ", 1)[0] in _OUR_FAULTS:
        return InternalError(detail=f"the store refused a command: {text}")
    return StoreUnavailable(detail=text.removeprefix(NODE_LOST))
