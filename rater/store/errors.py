"""Whose fault it is when the store answers a command with an error: ours, or its own state."""

from __future__ import annotations

from typing import Final

from redis.exceptions import ResponseError

from common.errors import Damaged, InternalError, RatelError, StoreUnavailable
from common.storage.cluster_trip import NODE_LOST
from common.storage.store import Reply

_OUR_FAULTS: Final = ("ERR", "WRONGTYPE", "CROSSSLOT", "NOSCRIPT", "EXECABORT")
"""What a command that is wrong is answered with. Everything else is about the store's state: it is
loading, full, read-only, busy, refuses the password, can't write its file."""

_DAMAGES: Final = ("ERR the account holds something else", "WRONGTYPE")
"""The first one is the scripts' own. Both are found before anything is written."""


def store_error(reply: Reply) -> RatelError:
    """The error for a reply that is not one of a command's own."""
    if not isinstance(reply, ResponseError):
        return InternalError(detail=f"an unexpected reply of the store: {reply!r:.80}")
    text = str(reply)
    if text.split(" ", 1)[0] in _OUR_FAULTS:
        fault = Damaged if text.startswith(_DAMAGES) else InternalError
        return fault(detail=f"the store refused a command: {text}")
    return StoreUnavailable(detail=text.removeprefix(NODE_LOST))
