"""The Python client: `JSONClient(("127.0.0.1", 2001)).call("Responder.GetCost", cd)`.

Calls may be pipelined (`submit`, `call_many`) and made from several threads at once. There is no
thread of the client's own: whoever waits for a reply reads the socket for everybody, and when it has
what it waited for, another waiter takes over. One lock guards all state; it is never held while
waiting for the network.

**Exactly once.** The client gives each mutation that has no `RequestId` a fresh one, so that sending
it again can't charge twice. When the connection is lost, it connects anew and sends again what was in
flight and is safe to repeat: reads, and mutations with a `RequestId`; as often as it takes until they
are answered or their time is up. Others (with `auto_request_id=False`) fail at once with
ConnectionLost, as nobody knows whether they were carried out. What a server that is shutting down sends
back undone is kept for the next connection. An error that leaves this open has the
RequestId in its `data["request_id"]`: to find out, make the same call again with it.

**Several servers.** `JSONClient(["10.0.0.1:2001", "10.0.0.2:2001"])` uses one of them at a time, at first
the first; to spread many clients, give each list an order of its own. When the connection is refused,
lost or told that the server shuts down, the next server gets what was in flight, at once; there is a
pause only before one that failed a moment ago. A server that hangs resets no connection. So when calls are
in flight and nothing arrives for a third of `attempt_timeout_s`, the client asks for a method that does
not exist, which every server answers by itself, however busy its raters are; when nothing at all comes
for the rest of that time, it goes on to the next one. A slow answer alone moves nobody. All that
happens while some thread waits for a reply.

**API keys.** With `api_key`, or the file that it stands in, each connection begins by saying it; calls follow
without waiting for the answer. A file is read for each connection, and again when the server does not take
the key any more: so a key is exchanged by writing the new one there before the old one is revoked.

**Time.** No call waits longer than its timeout; then it raises DeadlineExceeded, its late reply is
dropped, and the connection goes on being used.

**TLS.** With `tls=ClientTls(ca="ca.pem")` (`common.tls`) every server is spoken to over TLS, and its
certificate checked against its host. The files are read for each connection: renewed ones are taken.

**Forks.** A child has the clients of its parent, but connects by itself. What the parent had in flight
is answered to the parent; in the child it fails with ConnectionLost.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final

from common.client_link import (
    AUTHENTICATE_ID,
    ApiKey,
    Link,
    Pending,
    Redial,
    ServerAddress,
    clients,
    open_link,
    parse_servers,
    request_id_of,
)
from common.errors import ConnectionLost, DeadlineExceeded, RatelError, ShuttingDown, Unauthorized
from common.jsonrpc_replies import NotAReply, encode_call
from common.methods import BY_RPC_NAME, SERVICE
from common.tls import ClientTls

DEFAULT_TIMEOUT_S: Final = 10.0
DEFAULT_CONNECT_TIMEOUT_S: Final = 5.0
"""Long enough for a balancer to be started, short enough to learn soon of a wrong address."""
DEFAULT_ATTEMPT_TIMEOUT_S: Final = 1.5
"""Of silence, with another server to turn to: calls are answered again within 2 s, and no pause of a
server that is well lasts nearly as long."""
_KEY_CHANGED: Final = "there is another API key by now"

DEFAULT_WINDOW: Final = 64
"""Calls in flight in `call_many`: enough to keep several raters busy, few enough that none of them
waits long behind the others."""


class JSONClient:
    """A client of balancers or raters. It connects with the first call.

    `address` is (host, port), "HOST:PORT", several of them separated by commas, or a list. Times are in
    seconds. Servers that were never reached are given up after `connect_timeout_s`; once one was, calls
    wait until their own time is up. Safe to use from several threads, and in the children of a fork.
    """

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
        self._auto_request_id = auto_request_id
        self._tls = tls
        if tls is not None:
            tls.context()  # what is wrong with its files is said now
        self._last_id = 0
        self._waiting: dict[int, Pending] = {}
        self._link: Link | None = None
        self._closed = False
        self._reached = False
        """There has been a connection, or with TLS an answer: an address is right."""
        self._give_up_at: float | None = None
        """Until when to try to reach a server for the first time."""
        self._trouble = ""
        """Why there is no connection."""
        self._start_afresh()
        clients.add(self)

    def _start_afresh(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._reading = False
        """Some thread waits for the network on everybody's behalf."""
        self._redial = Redial(len(self._servers))

    def __enter__(self) -> JSONClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Calls in flight fail with ConnectionLost."""
        with self._changed:
            self._closed = True
            self._fail_waiting("the client was closed")
            if self._link is not None:
                self._link.abandon()
                self._link = None

    def call(
        self, method: str, descriptor: Mapping[str, Any] | None = None, *, timeout_s: float | None = None
    ) -> Any:
        """The result of one call, or its error raised.

        `method` is "Responder.GetCost" or plainly "GetCost". Whole numbers come as int, all others
        as decimal.Decimal, so that money stays exact.
        """
        deadline = self._deadline(timeout_s)
        return self._result(self._submit(method, descriptor, deadline), deadline)

    def submit(self, method: str, descriptor: Mapping[str, Any] | None = None) -> Pending:
        """Sends a call and doesn't wait for its reply. Many may be in flight."""
        return self._submit(method, descriptor, self._deadline(None))

    def call_many(
        self, calls: Iterable[tuple[str, Mapping[str, Any]]], *, window: int = DEFAULT_WINDOW
    ) -> list[Any | RatelError]:
        """All the results in order, with up to `window` calls in flight; errors stand in their places."""
        outcomes: list[Any | RatelError] = []
        under_way: deque[Pending | RatelError] = deque()
        for method, descriptor in calls:
            if len(under_way) >= window:
                outcomes.append(_outcome(under_way.popleft()))
            try:
                under_way.append(self.submit(method, descriptor))
            except RatelError as error:
                under_way.append(error)
        outcomes += map(_outcome, under_way)
        return outcomes

    def _deadline(self, timeout_s: float | None) -> float:
        return time.monotonic() + (self._timeout_s if timeout_s is None else timeout_s)

    def _submit(self, method: str, descriptor: Mapping[str, Any] | None, deadline: float) -> Pending:
        name = method if "." in method else f"{SERVICE}.{method}"
        fields = dict(descriptor or {})
        with self._changed:
            if self._closed:
                raise self._connection_lost("the client was closed")
            self._last_id += 1
            known = BY_RPC_NAME.get(name)
            mutates = known is None or known.mutates
            may_add = self._auto_request_id and known is not None
            request_id = request_id_of(fields, add=may_add) if mutates else ""
            message = encode_call(self._last_id, name, fields)
            repeatable = not mutates or bool(request_id)
            pending = Pending(self, self._last_id, message, deadline, repeatable, request_id)
            self._send(pending, deadline)
        return pending

    def _leave_to_parent(self) -> None:
        """In the child of a fork, whose only thread runs this; the parent's may have held the lock."""
        self._start_afresh()
        with self._changed:
            if self._link is not None:
                self._link.leave_to_parent()
                self._link = None
            self._fail_waiting("it was made by the parent process, which gets the reply")

    # From here on, all but _result is called with the lock held.

    def _send(self, pending: Pending, deadline: float) -> None:
        if self._link is not None and not self._waiting:
            self._receive(self._link)  # an idle connection may have been closed meanwhile
        self._waiting[pending._id] = pending
        if self._link is not None:
            self._enqueue(self._link, pending)
            self._flush(self._link)
        while not pending._done and (self._link is None or self._link.outbox):
            if self._step(deadline, sending=True):
                continue
            if self._link is not None:  # part of a message is stuck in it
                self._lose(self._link, "the server does not read")
            self._expire(pending, deadline)

    def _result(self, pending: Pending, deadline: float) -> Any:
        with self._changed:
            pending._deadline = max(pending._deadline, deadline)
            while not pending._done:
                if not self._step(deadline, sending=False):
                    self._expire(pending, deadline)
        if isinstance(pending._outcome, RatelError):
            raise pending._outcome
        return pending._outcome

    def _step(self, deadline: float, *, sending: bool) -> bool:
        """Lets go of the lock until something may have changed. False when the time is up."""
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return False
        link = self._link
        if self._reading:
            if sending and link is not None:  # the reader may not know that there is more to send
                self._wait(link, select.POLLOUT, left_s)
                self._flush(link)
            else:
                self._changed.wait(left_s)
            return True
        self._reading = True
        try:
            if link is None:
                self._connect(deadline)
            else:
                patience_s = self._attempt_timeout_s if len(self._servers) > 1 else math.inf
                quiet_s = max(link.doubt_at(patience_s) - time.monotonic(), 0)
                events = select.POLLIN | (select.POLLOUT if link.outbox else 0)
                self._wait(link, events, min(left_s, quiet_s))
                self._flush(link)
                self._receive(link)
                self._doubt(link, patience_s)
        finally:
            self._reading = False
            self._changed.notify_all()
        return True

    def _wait(self, link: Link, events: int, timeout_s: float) -> None:
        link.waiters += 1
        self._changed.release()
        try:
            link.wait(events, timeout_s)
        finally:
            self._changed.acquire()
            link.waiters -= 1
            if link.lost:
                link.abandon()

    def _flush(self, link: Link) -> None:
        if link.lost:
            return
        try:
            link.send()
        except OSError as error:
            self._lose(link, str(error))

    def _receive(self, link: Link) -> None:
        if link.lost:
            return
        leave = ""
        try:
            for call_id, outcome in link.receive():
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
                    pending._settle(outcome)
                elif call_id == AUTHENTICATE_ID and isinstance(outcome, Unauthorized):
                    self._fail_waiting(outcome.message, outcome)
        except OSError as error:
            self._lose(link, str(error))
        except NotAReply as error:  # and it would be none the next time
            self._lose(link, str(error))
            self._fail_waiting(str(error))
        else:
            # What can't be repeated is still answered here, and the server ends the connection then.
            may_leave = all(one._repeatable or not one._sent for one in self._waiting.values())
            if leave is _KEY_CHANGED or (leave and may_leave and len(self._servers) > 1):
                self._lose(link, leave)

    def _doubt(self, link: Link, patience_s: float) -> None:
        """Nothing came in time: see whether the server is there at all, and leave it if it is not."""
        if link.lost or time.monotonic() < link.doubt_at(patience_s):
            return
        if link.probe():
            self._flush(link)
        else:
            self._lose(link, f"nothing came back for {patience_s:g} s")

    def _connect(self, deadline: float) -> None:
        """Waits until it is time, or makes one attempt. After it there may be a link."""
        now = time.monotonic()
        if now < self._redial.at:
            self._changed.wait(min(self._redial.at, deadline) - now)
            return
        if self._give_up_at is None or self._reached:
            self._give_up_at = now + self._connect_timeout_s
        left_s = max(min(deadline, self._give_up_at) - now, 0.001)
        if len(self._servers) > 1:  # each gets its chance
            left_s = min(left_s, self._attempt_timeout_s, self._connect_timeout_s / len(self._servers))
        address = self._address = self._servers[self._redial.turn]
        problem: Unauthorized | None = None
        self._changed.release()
        try:
            link, detail = open_link(address, left_s, self._tls, self._api_key.read()), ""
        except Unauthorized as error:
            link, detail, problem = None, "", error
        except OSError as error:
            link, detail = None, str(error)
        finally:
            self._changed.acquire()
        if link is not None:
            self._reached = self._reached or self._tls is None
            self._adopt(link)
            return
        if problem is not None:  # there is no key to come in by
            self._fail_waiting(problem.message, problem)
            return
        self._trouble = f"can't connect: {detail}"
        self._failed()

    def _failed(self) -> None:
        """On to the next attempt; or to none, when no server was ever reached and the time for that is up."""
        now = time.monotonic()
        self._redial.failed(now)
        if not self._reached and self._give_up_at and max(self._redial.at, now) >= self._give_up_at:
            self._give_up_at = None
            self._redial = Redial(len(self._servers))
            self._fail_waiting(self._trouble)

    def _adopt(self, link: Link) -> None:
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

    def _enqueue(self, link: Link, pending: Pending) -> None:
        pending._sent = True
        link.take(pending._message)

    def _lose(self, link: Link, detail: str) -> None:
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
        if not was_idle:
            self._failed()
        self._changed.notify_all()

    def _fail_waiting(self, detail: str, error: RatelError | None = None) -> None:
        """With that error, or with ConnectionLost for that reason."""
        for pending in self._waiting.values():
            pending._settle(error or self._connection_lost(detail, pending.request_id))
        self._waiting.clear()
        self._changed.notify_all()

    def _expire(self, pending: Pending, deadline: float) -> None:
        if self._link is not None and not self._reading:
            self._receive(self._link)  # the reply may be there, and nobody had the time to read it
        self._waiting.pop(pending._id, None)
        if not pending._done:
            timeout_ms = round((deadline - pending._started) * 1000)
            open_or_not = "may or may not have carried it out" if pending._sent else "did not get it"
            trouble = "" if self._link is not None else f" ({self._trouble})"
            detail = f"{self._address} {open_or_not}{trouble}"
            pending._settle(
                DeadlineExceeded(timeout_ms=timeout_ms, detail=detail, request_id=pending.request_id)
            )

    def _reason_to_leave(self, link: Link, outcome: Any | RatelError) -> str:
        """Why the next connection is to take this call, where this one did nothing for it."""
        if isinstance(outcome, ShuttingDown):
            return "the server shuts down"
        if isinstance(outcome, Unauthorized) and link.api_key is not None:
            with contextlib.suppress(Unauthorized):
                if self._api_key.read() != link.api_key:
                    return _KEY_CHANGED
        return ""

    def _connection_lost(self, detail: str, request_id: str = "") -> ConnectionLost:
        return ConnectionLost(address=str(self._address), detail=detail, request_id=request_id)


def _outcome(pending: Pending | RatelError) -> Any | RatelError:
    """Its time counts from when it was sent: a window of calls is over as soon as one of them."""
    try:
        if isinstance(pending, RatelError):
            return pending
        return pending._client._result(pending, pending._deadline)
    except RatelError as error:
        return error
