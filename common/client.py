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

import os
import select
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Final
from weakref import WeakSet

from common.api.calls import Calls
from common.client_core import CANT_CONNECT, DEFAULT_TIMEOUT_S, DEFAULT_WINDOW, DOES_NOT_READ, ClientCore
from common.client_link import Link, open_link
from common.client_parts import CallUnderWay, Redial
from common.errors import RatelError, Unauthorized

__all__ = ["DEFAULT_TIMEOUT_S", "JSONClient", "Pending"]


class Pending(CallUnderWay):
    """A call under way; see `JSONClient.submit`. Someone has to wait for a reply for any to be read."""

    __slots__ = ("_client",)

    def __init__(
        self,
        client: JSONClient,
        call_id: int,
        message: bytes,
        deadline: float,
        repeatable: bool,
        request_id: str,
    ) -> None:
        super().__init__(call_id, message, deadline, repeatable, request_id)
        self._client = client

    def result(self, timeout_s: float | None = None) -> Any:
        """The result, waited for no longer than `timeout_s` (default: the client's), or its error.

        After a DeadlineExceeded the call is abandoned; asking again raises the same.
        """
        return self._client._result(self, self._client._deadline(timeout_s))


class JSONClient(ClientCore[Pending, Link], Calls):
    """A client of balancers or raters. It connects with the first call.

    `address` is (host, port), "HOST:PORT", several of them separated by commas, or a list. Times are in
    seconds. Servers that were never reached are given up after `connect_timeout_s`; once one was, calls
    wait until their own time is up. Safe to use from several threads, and in the children of a fork.
    """

    def _start_afresh(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._reading = False
        """Some thread waits for the network on everybody's behalf."""
        self._redial = Redial(len(self._servers))
        _clients.add(self)

    def __enter__(self) -> JSONClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Calls in flight fail with ConnectionLost."""
        with self._changed:
            self._end()

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

    def _submit(self, method: str, descriptor: Mapping[str, Any] | None, deadline: float) -> Pending:
        with self._changed:
            pending = self._begin(method, descriptor, deadline)
            self._send(pending, deadline)
        return pending

    def _make_pending(
        self, call_id: int, message: bytes, deadline: float, repeatable: bool, request_id: str
    ) -> Pending:
        return Pending(self, call_id, message, deadline, repeatable, request_id)

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
        self._await_reply(pending)
        while not pending._done and (self._link is None or self._link.outbox):
            if self._step(deadline, sending=True):
                continue
            if self._link is not None:  # part of a message is stuck in it
                self._lose(self._link, DOES_NOT_READ)
            self._expire(pending, deadline)

    def _result(self, pending: Pending, deadline: float) -> Any:
        with self._changed:
            pending._deadline = max(pending._deadline, deadline)
            while not pending._done:
                if not self._step(deadline, sending=False):
                    self._expire(pending, deadline)
        return pending._take_outcome()

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
                quiet_s = max(link.doubt_at(self._patience_s) - time.monotonic(), 0)
                events = select.POLLIN | (select.POLLOUT if link.outbox else 0)
                self._wait(link, events, min(left_s, quiet_s))
                self._flush(link)
                self._receive(link)
                self._doubt(link)
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
        try:
            replies = link.receive()
        except OSError as error:
            self._lose(link, str(error))
        else:
            self._hear(link, replies)

    def _connect(self, deadline: float) -> None:
        """Waits until it is time, or makes one attempt. After it there may be a link."""
        now = time.monotonic()
        if now < self._redial.at:
            self._changed.wait(min(self._redial.at, deadline) - now)
            return
        address, left_s = self._next_attempt(deadline)
        outcome: Link | Unauthorized | OSError | UnicodeError
        self._changed.release()
        try:
            outcome = open_link(address, left_s, self._tls, self._api_key.read())
        except (Unauthorized, *CANT_CONNECT) as error:
            outcome = error
        finally:
            self._changed.acquire()
        self._attempted(outcome)

    def _expire(self, pending: Pending, deadline: float) -> None:
        if self._link is not None and not self._reading:
            self._receive(self._link)  # the reply may be there, and nobody had the time to read it
        super()._expire(pending, deadline)

    def _stir(self) -> None:
        self._changed.notify_all()


def _outcome(pending: Pending | RatelError) -> Any | RatelError:
    """Its time counts from when it was sent: a window of calls is over as soon as one of them."""
    try:
        if isinstance(pending, RatelError):
            return pending
        return pending._client._result(pending, pending._deadline)
    except RatelError as error:
        return error


_clients: Final[WeakSet[JSONClient]] = WeakSet()
"""All there are, for a fork."""


def _leave_all_to_parent() -> None:
    for client in list(_clients):
        client._leave_to_parent()


os.register_at_fork(after_in_child=_leave_all_to_parent)
