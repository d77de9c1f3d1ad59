"""What clients decide, without a socket or a loop: `common.client` and `common.async_client` carry it out.

They differ in how they wait. What is the same stands here: which calls are open, which server is in use
and which is next, what a reply, a silence or a lost connection means for each call, and with which error it
ends. A driver says what happened (`_begin`, `_hear`, `_attempted`, `_lose`, `_expire`, `_doubt`), and is told
what to do by three hooks: `_make_pending`, `_flush`, `_stir`. Nothing here waits; all of it is called by one
at a time.

An address that was never reached is given up after `connect_timeout_s`. A connection proves that it is right;
with TLS only an answer does, as a server may still refuse our certificate when hands are shaken.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Generic, TypeVar

from common.addresses import Address
from common.client_parts import (
    AUTHENTICATE_ID,
    ApiKey,
    CallUnderWay,
    Conversation,
    Redial,
    ServerAddress,
    parse_servers,
    request_id_of,
)
from common.errors import (
    ConnectionLost,
    DeadlineExceeded,
    Forbidden,
    Overloaded,
    RatelError,
    ServiceError,
    ShuttingDown,
    TooManyRequests,
    Unauthorized,
)
from common.methods import BY_RPC_NAME, SERVICE
from common.rpc.jsonrpc_replies import NotAReply, Reply, encode_call
from common.tls import ClientTls

DEFAULT_TIMEOUT_S: Final = 10.0
DEFAULT_CONNECT_TIMEOUT_S: Final = 5.0
"""Long enough for a balancer to be started, short enough to learn soon of a wrong address."""
DEFAULT_ATTEMPT_TIMEOUT_S: Final = 1.5
"""Of silence, with another server to turn to: calls are answered again within 2 s, and no pause of a
server that is well lasts nearly as long."""

DEFAULT_WINDOW: Final = 64
"""Calls in flight in `call_many`: enough to keep several raters busy, few enough that none of them
waits long behind the others."""

CLOSED: Final = "the client was closed"
DOES_NOT_READ: Final = "the server does not read"
CANT_CONNECT: Final = (OSError, UnicodeError)
"""The latter for a name that is no host's."""
_KEY_CHANGED: Final = "there is another API key by now"

REFUSED_FOR_NOW: Final = (Overloaded, ShuttingDown, TooManyRequests, Unauthorized, Forbidden)
"""Errors that say that an attempt did nothing, and nothing about another one of the same call."""

AnyPending = TypeVar("AnyPending", bound=CallUnderWay)
AnyLink = TypeVar("AnyLink", bound=Conversation)


class ClientCore(Generic[AnyPending, AnyLink]):
    def __init__(
        self,
        address: ServerAddress | Sequence[ServerAddress],
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        connect_timeout_s: float = DEFAULT_CONNECT_TIMEOUT_S,
        attempt_timeout_s: float = DEFAULT_ATTEMPT_TIMEOUT_S,
        auto_request_id: bool = True,
        api_key: str | None = None,
        api_key_file: str | os.PathLike[str] | None = None,
        tls: ClientTls | None = None,
    ) -> None:
        self._api_key = ApiKey(api_key, api_key_file)
        self._servers = parse_servers(address)
        self._address = self._servers[0]
        """The one in use, or tried last."""
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._attempt_timeout_s = attempt_timeout_s
        self._patience_s = attempt_timeout_s if len(self._servers) > 1 else math.inf
        """Of silence: the only server is never doubted."""
        self._auto_request_id = auto_request_id
        self._tls = tls
        if tls is not None:
            tls.context()  # what is wrong with its files is said now
        self._last_id = 0
        self._waiting: dict[int, AnyPending] = {}
        self._link: AnyLink | None = None
        self._redial = Redial(len(self._servers))
        self._closed = False
        self._reached = False
        """There has been a connection, or with TLS an answer: an address is right."""
        self._give_up_at: float | None = None
        """Until when to try to reach a server for the first time."""
        self._trouble = ""
        """Why there is no connection."""
        self._start_afresh()

    # --- hooks -------------------------------------------------------------------------------------

    def _start_afresh(self) -> None:
        """Make what is needed to wait."""

    def _make_pending(
        self, call_id: int, message: bytes, deadline: float, repeatable: bool, request_id: str
    ) -> AnyPending:
        raise NotImplementedError

    def _flush(self, link: AnyLink) -> None:
        """Have its outbox sent, now or soon."""
        raise NotImplementedError

    def _stir(self) -> None:
        """Calls have ended, or the link is another one."""
        raise NotImplementedError

    # --- calls -------------------------------------------------------------------------------------

    def _deadline(self, timeout_s: float | None) -> float:
        return time.monotonic() + (self._timeout_s if timeout_s is None else timeout_s)

    def _begin(self, method: str, descriptor: Mapping[str, Any] | None, deadline: float) -> AnyPending:
        """A call that is not sent yet. Raises what is wrong with it."""
        name = method if "." in method else f"{SERVICE}.{method}"
        fields = dict(descriptor or {})
        if self._closed:
            raise self._connection_lost(CLOSED)
        self._last_id += 1
        known = BY_RPC_NAME.get(name)
        mutates = known is None or known.mutates
        may_add = self._auto_request_id and known is not None
        request_id = request_id_of(fields, add=may_add) if mutates else ""
        message = encode_call(self._last_id, name, fields)
        return self._make_pending(
            self._last_id, message, deadline, not mutates or bool(request_id), request_id
        )

    def _await_reply(self, pending: AnyPending) -> None:
        """From now on it is sent: here, if there is a link, and by each that comes."""
        if not self._waiting and not self._reached:
            self._give_up_at = None  # nobody has waited for a server
        self._waiting[pending._id] = pending
        if self._link is not None:
            self._enqueue(self._link, pending)
            self._flush(self._link)

    def _enqueue(self, link: AnyLink, pending: AnyPending) -> None:
        pending._sent = True
        link.take(pending._message)

    def _expire(self, pending: AnyPending, deadline: float) -> None:
        self._waiting.pop(pending._id, None)
        if not pending._done:
            timeout_ms = round((deadline - pending._started) * 1000)
            open_or_not = (
                "may or may not have carried it out" if pending._sent or pending._tried else "did not get it"
            )
            trouble = "" if self._link is not None else f" ({self._trouble})"
            detail = f"{self._address} {open_or_not}{trouble}"
            pending._settle(
                DeadlineExceeded(timeout_ms=timeout_ms, detail=detail, request_id=pending.request_id)
            )

    def _settle(self, pending: AnyPending, outcome: Any | RatelError) -> None:
        """Who refuses a mutation can't know what became of the attempt before, whose answer was lost. What
        failed is to be asked again with the RequestId, which may be known to us alone."""
        if pending._tried and isinstance(outcome, REFUSED_FOR_NOW):
            detail = f"asked again, the answer is {outcome.name}; whether it was carried out is unknown"
            outcome = self._connection_lost(detail, pending.request_id)
        elif pending.request_id and isinstance(outcome, ServiceError):
            outcome.data.setdefault("request_id", pending.request_id)
        pending._settle(outcome)

    def _fail_waiting(self, detail: str, error: RatelError | None = None) -> None:
        """With that error, or with ConnectionLost for that reason."""
        for pending in self._waiting.values():
            self._settle(pending, error or self._connection_lost(detail, pending.request_id))
        self._waiting.clear()
        self._stir()

    def _connection_lost(self, detail: str, request_id: str = "") -> ConnectionLost:
        return ConnectionLost(address=str(self._address), detail=detail, request_id=request_id)

    # --- what comes back ---------------------------------------------------------------------------

    def _hear(self, link: AnyLink, replies: Iterator[Reply]) -> None:
        leave = ""
        try:
            for call_id, outcome in replies:
                link.owed -= 1
                pending = self._waiting.get(call_id)
                reason = self._reason_to_leave(link, outcome)
                if reason:
                    leave = reason
                    if pending is not None:
                        pending._sent = False  # nothing was done: the next connection takes it
                    continue
                self._redial.worked()
                self._reached = True
                if pending is not None:  # else it comes too late
                    del self._waiting[call_id]
                    self._settle(pending, outcome)
                elif call_id == AUTHENTICATE_ID and isinstance(outcome, Unauthorized):
                    self._fail_waiting(outcome.message, outcome)
        except NotAReply as error:  # and it would be none the next time
            self._lose(link, str(error))
            self._fail_waiting(str(error))
        else:
            # What can't be repeated is still answered here, and the server ends the connection then.
            may_leave = all(one._repeatable or not one._sent for one in self._waiting.values())
            if leave is _KEY_CHANGED or (leave and may_leave and len(self._servers) > 1):
                self._lose(link, leave)

    def _reason_to_leave(self, link: AnyLink, outcome: Any | RatelError) -> str:
        """Why the next connection is to take this call, where this one did nothing for it."""
        if isinstance(outcome, ShuttingDown):
            return "the server shuts down"
        if isinstance(outcome, Unauthorized) and link.api_key is not None:
            with contextlib.suppress(Unauthorized):
                if self._api_key.read() != link.api_key:
                    return _KEY_CHANGED
        return ""

    def _doubt(self, link: AnyLink) -> None:
        """Nothing came in time: see whether the server is there at all, and leave it if it is not."""
        if link.lost or time.monotonic() < link.doubt_at(self._patience_s):
            return
        if link.probe():
            self._flush(link)
        else:
            self._lose(link, f"nothing came back for {self._patience_s:g} s")

    # --- connections -------------------------------------------------------------------------------

    def _next_attempt(self, deadline: float) -> tuple[Address, float]:
        """Which server to connect to, when `_redial.at` has come, and how long that may take."""
        now = time.monotonic()
        if self._give_up_at is None or self._reached:
            self._give_up_at = now + self._connect_timeout_s
        left_s = max(min(deadline, self._give_up_at) - now, 0.001)
        if len(self._servers) > 1:  # each gets its chance
            left_s = min(left_s, self._attempt_timeout_s, self._connect_timeout_s / len(self._servers))
        self._address = self._servers[self._redial.turn]
        return self._address, left_s

    def _attempted(self, outcome: AnyLink | Unauthorized | OSError | UnicodeError) -> None:
        if isinstance(outcome, Unauthorized):  # there is no key to come in by
            self._fail_waiting(outcome.message, outcome)
        elif isinstance(outcome, OSError | UnicodeError):
            self._trouble = f"can't connect: {outcome}"
            self._failed()
        else:
            self._reached = self._reached or self._tls is None
            self._adopt(outcome)

    def _failed(self) -> None:
        """On to the next attempt; or to none, when no server was ever reached and the time for that is up."""
        now = time.monotonic()
        self._redial.failed(now)
        if not self._reached and self._give_up_at and max(self._redial.at, now) >= self._give_up_at:
            self._give_up_at = None
            self._redial = Redial(len(self._servers))
            self._fail_waiting(self._trouble)

    def _adopt(self, link: AnyLink) -> None:
        """Sends on the new connection whatever waits for an answer."""
        if self._closed:
            link.abandon()
            return
        self._link = link
        now = time.monotonic()
        for pending in list(self._waiting.values()):
            if now < pending._deadline:
                self._enqueue(link, pending)
            else:  # and nobody waits for it
                self._expire(pending, pending._deadline)
        self._flush(link)
        self._stir()

    def _lose(self, link: AnyLink, detail: str) -> None:
        link.abandon()
        if link is not self._link:
            return
        self._link = None
        self._trouble = detail
        was_idle = not self._waiting  # which tells nothing about the server
        for call_id, pending in list(self._waiting.items()):
            if pending._sent and not pending._repeatable:
                del self._waiting[call_id]
                pending._settle(self._connection_lost(detail, pending.request_id))
            elif pending._sent and pending.request_id:
                pending._tried = True
        if not was_idle:
            self._failed()
        self._stir()

    def _end(self) -> AnyLink | None:
        """Calls in flight fail with ConnectionLost. The link that there was, abandoned."""
        self._closed = True
        self._fail_waiting(CLOSED)
        link, self._link = self._link, None
        if link is not None:
            link.abandon()
        return link
