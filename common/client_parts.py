"""What clients are made of, without a socket: servers, keys, a call under way, when to try which server next,
and what is said on one connection.

`common.client_core` puts them together.
"""

from __future__ import annotations

import math
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

from common.addresses import Address, parse_address
from common.errors import RatelError, Unauthorized
from common.methods import AUTHENTICATE, SERVICE
from common.rpc.jsonrpc_replies import Reply, ReplyReader, encode_call

FIRST_BACKOFF_S: Final = 0.05
"""Long enough for a dying server to be gone: a connection made at once would land in its backlog."""
LONGEST_BACKOFF_S: Final = 0.5
"""A host that is down is not hammered, and one that is back is found by calls of short timeouts too."""

PROBE_SHARE: Final = 1 / 3
"""Of the client's patience, before it asks whether the server is there; the rest is for the answer."""
PROBE: Final = encode_call(0, "Responder.AreYouThere", {})
"""Answered with method_not_found by the server itself. No call has the id 0, so the answer is dropped."""

_MAX_KEY_FILE_BYTES: Final = 1024
"""An API key has 82 characters."""

ServerAddress = tuple[str, int] | str


def parse_servers(given: ServerAddress | Sequence[ServerAddress]) -> tuple[Address, ...]:
    """The addresses in order. Raises ValueError."""
    if isinstance(given, str):
        return tuple(parse_address(text.strip()) for text in given.split(","))
    if len(given) == 2 and isinstance(given[0], str) and isinstance(given[1], int):
        return (Address(given[0], given[1]),)
    servers = tuple(server for one in given for server in parse_servers(one))  # type: ignore[arg-type]
    if not servers:
        raise ValueError("expected at least one address")
    return servers


def request_id_of(fields: dict[str, Any], *, add: bool) -> str:
    """The descriptor's RequestId, under any spelling; a fresh one may be added if it has none.

    Random as a whole: a prefix or a counter would be the same in all children of a fork.
    """
    for field, value in fields.items():
        if str(field).casefold() == "requestid":
            return str(value or "")
    if not add:
        return ""
    request_id = fields["RequestId"] = secrets.token_hex(16)
    return request_id


class CallUnderWay:
    """One call, from its sending to its outcome."""

    __slots__ = (
        "_deadline",
        "_done",
        "_id",
        "_message",
        "_outcome",
        "_repeatable",
        "_sent",
        "_started",
        "_tried",
        "request_id",
    )

    def __init__(
        self, call_id: int, message: bytes, deadline: float, repeatable: bool, request_id: str
    ) -> None:
        self.request_id = request_id
        """Under which a mutation was sent: with the same one, it may be made again. Empty for reads."""
        self._started = time.monotonic()
        self._deadline = deadline
        """From then on it is not sent again, unless someone waits for it longer."""
        self._id = call_id
        self._message = message
        self._repeatable = repeatable
        self._sent = False
        self._tried = False
        """It is a mutation that was sent, and the connection was lost before the answer came."""
        self._done = False
        self._outcome: Any | RatelError = None

    @property
    def done(self) -> bool:
        """Whether the reply has been read."""
        return self._done

    def _settle(self, outcome: Any | RatelError) -> None:
        self._outcome = outcome
        self._done = True

    def _take_outcome(self) -> Any:
        """The result, or its error raised."""
        if isinstance(self._outcome, RatelError):
            raise self._outcome
        return self._outcome


class Redial:
    """Which server to connect to, and when: after a failure the next one, at once unless it failed itself
    lately. The pause before a server is tried again doubles until it has answered.

    A connection alone proves nothing: what accepts it may be about to die.
    """

    def __init__(self, servers: int = 1) -> None:
        self.turn = 0
        self._at = [-math.inf] * servers
        self._pauses_s = [FIRST_BACKOFF_S] * servers

    @property
    def at(self) -> float:
        return self._at[self.turn]

    def failed(self, now: float) -> None:
        """No connection came about, or one was lost with calls in flight."""
        pause_s = self._pauses_s[self.turn]
        self._at[self.turn] = now + pause_s
        self._pauses_s[self.turn] = min(2 * pause_s, LONGEST_BACKOFF_S)
        self.turn = (self.turn + 1) % len(self._at)

    def worked(self) -> None:
        self._pauses_s[self.turn] = FIRST_BACKOFF_S


AUTHENTICATE_ID: Final = -1
"""Of the call that says who the client is; no other call has it."""


class ApiKey:
    """The key that a client says when it connects. A file is read for each connection, so that it may change
    meanwhile."""

    def __init__(self, text: str | None, path: str | os.PathLike[str] | None) -> None:
        if text is not None and path is not None:
            raise ValueError("give api_key or api_key_file, not both")
        self._text = text
        self._path = path

    def read(self) -> str | None:
        """None where there is none to say. Raises Unauthorized when the file can't be read."""
        if self._path is None:
            return self._text
        try:
            with open(self._path, encoding="ascii") as file:
                return file.read(_MAX_KEY_FILE_BYTES).strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it holds no API key"
            raise Unauthorized(
                detail=f"can't read the API key in {os.fspath(self._path)}: {reason}"
            ) from None


def encode_authenticate(key: str) -> bytes:
    return encode_call(AUTHENTICATE_ID, f"{SERVICE}.{AUTHENTICATE.name}", {"ApiKey": key})


class Conversation:
    """What is said on one connection: calls that are to be sent, replies that are owed, silences."""

    def __init__(self, api_key: str | None = None) -> None:
        self._replies = ReplyReader()
        self.api_key = api_key
        """By which it came in."""
        self.outbox = bytearray()
        self.lost = False
        self.owed = 0
        """Replies that are still to come, wanted or not."""
        self._heard_at = 0.0
        """When something came, or was first owed."""
        self._probed_at: float | None = None
        if api_key is not None:
            self.take(encode_authenticate(api_key))

    def take(self, message: bytes) -> None:
        """To be sent: one call."""
        if not self.owed:
            self._heard_at = time.monotonic()
        self.owed += 1
        self.outbox += message

    def hear(self, data: bytes) -> Iterator[Reply]:
        """The replies that the next bytes complete. Raises, after some, NotAReply."""
        self._heard_at, self._probed_at = time.monotonic(), None
        return self._replies.feed(data)

    def doubt_at(self, patience_s: float) -> float:
        """When the silence has lasted long enough to ask whether the server is there, or to leave it."""
        if not self.owed:
            return math.inf
        if self._probed_at is None:
            return self._heard_at + patience_s * PROBE_SHARE
        return self._probed_at + patience_s * (1 - PROBE_SHARE)

    def probe(self) -> bool:
        """Asks whether the server is there, unless that was asked in vain."""
        if self._probed_at is not None:
            return False
        self._probed_at = time.monotonic()
        self.take(PROBE)
        return True

    def abandon(self) -> None:
        """Ends the connection."""
        raise NotImplementedError
