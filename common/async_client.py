"""The client of asyncio: `await AsyncClient(("127.0.0.1", 2001)).call("Responder.GetCost", cd)`.

It has the names of `common.client.JSONClient`, and they mean the same: RequestIds, several servers, API keys,
TLS and time are as described there, for both are made of `common.client_core`. What is different:

**One loop.** A client belongs to the event loop that it is first used in, and to no thread or child beside
it. Calls of all tasks share one connection, and those of one turn of the loop one write. The client reads,
connects and repeats by itself, whether or not somebody waits at the moment.

**Cancellation.** When a task is cancelled while it waits in `call`, the call is abandoned: its reply is
dropped, and the connection goes on for the others. Whether a mutation was carried out is unknown then, as
after a DeadlineExceeded; give it a RequestId to ask again. Who waits for `Pending.result` may be cancelled
and come back.
"""

from __future__ import annotations

import asyncio
import math
import select
import ssl
import time
from collections import deque
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Final, cast

from common.addresses import Address
from common.api.async_calls import AsyncCalls
from common.client_core import CANT_CONNECT, DEFAULT_WINDOW, DOES_NOT_READ, ClientCore
from common.client_parts import CallUnderWay, Conversation
from common.errors import RatelError, Unauthorized
from common.tls import TlsError, TlsRefused, explain

__all__ = ["AsyncClient", "Pending"]

HIGH_WATER_BYTES: Final = 256 * 1024
"""Of what was handed to the transport and not sent. Beyond it calls stay here, and `submit` waits."""

_LAST_LOOK_S: Final = 0.001
"""Between the time for doubt and doubting: some loops run timers before they read what has arrived."""


class Pending(CallUnderWay):
    """A call under way; see `AsyncClient.submit`."""

    __slots__ = ("_client", "_settled", "_timer")

    def __init__(
        self,
        client: AsyncClient,
        call_id: int,
        message: bytes,
        deadline: float,
        repeatable: bool,
        request_id: str,
    ) -> None:
        super().__init__(call_id, message, deadline, repeatable, request_id)
        self._client = client
        self._settled: asyncio.Future[None] = client._loop.create_future()
        self._timer = client._call_at(deadline, client._expire, self, deadline)

    async def result(self, timeout_s: float | None = None) -> Any:
        """The result, waited for no longer than `timeout_s` (default: the client's), or its error.

        After a DeadlineExceeded the call is abandoned; asking again raises the same.
        """
        return await self._client._result(self, self._client._deadline(timeout_s))

    def _settle(self, outcome: Any | RatelError) -> None:
        super()._settle(outcome)
        self._timer.cancel()
        if not self._settled.done():  # as it is when who waited was cancelled
            self._settled.set_result(None)


class Link(Conversation, asyncio.Protocol):
    """One connection."""

    _transport: asyncio.Transport

    def __init__(self, client: AsyncClient, api_key: str | None) -> None:
        super().__init__(api_key)
        self._client = client
        self.flush_is_due = False
        self.full_since: float | None = None
        """Since when the transport takes no more."""
        self.ended: asyncio.Future[str] = client._loop.create_future()
        """By what; set when the transport is gone."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)

    def data_received(self, data: bytes) -> None:
        if not self.lost:
            self._client._hear(self, self.hear(data))

    def pause_writing(self) -> None:
        self.full_since = time.monotonic()

    def resume_writing(self) -> None:
        self.full_since = None
        self.send()
        self._client._stir()

    def connection_lost(self, error: Exception | None) -> None:
        why = "closed by the server" if error is None else str(error)
        if isinstance(error, ssl.SSLError):
            why = f"TLS: {explain(error)}"
        self.ended.set_result(why)
        if not self.lost:
            self._client._lose(self, why)

    def send(self) -> None:
        """What is in the outbox, unless the transport is full."""
        self.flush_is_due = False
        if self.outbox and self.full_since is None and not self.lost:
            message = bytes(self.outbox)
            self.outbox.clear()
            self._transport.write(message)

    def is_closed(self) -> bool:
        """Whether the server has ended it, though the loop may not have come to know yet."""
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))

    def abandon(self) -> None:
        self.lost = True
        self._transport.abort()


class AsyncClient(ClientCore[Pending, Link], AsyncCalls):
    """A client of balancers or raters, in an event loop. It connects with the first call.

    `address` is (host, port), "HOST:PORT", several of them separated by commas, or a list. Times are in
    seconds. Servers that were never reached are given up after `connect_timeout_s`; once one was, calls
    wait until their own time is up. For all tasks of one loop.
    """

    _loop: asyncio.AbstractEventLoop

    def _start_afresh(self) -> None:
        self._connecting: asyncio.Task[None] | None = None
        self._turn: asyncio.Future[None] | None = None
        """Set when something has changed, for those that wait to send."""
        self._next_look: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Calls in flight fail with ConnectionLost."""
        link = self._end()
        if self._next_look is not None:
            self._next_look.cancel()
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait((self._connecting,))
        if link is not None:
            await asyncio.shield(link.ended)

    async def call(
        self, method: str, descriptor: Mapping[str, Any] | None = None, *, timeout_s: float | None = None
    ) -> Any:
        """The result of one call, or its error raised.

        `method` is "Responder.GetCost" or plainly "GetCost". Whole numbers come as int, all others
        as decimal.Decimal, so that money stays exact.
        """
        pending = self._start(method, descriptor, self._deadline(timeout_s))
        try:
            await pending._settled
        except asyncio.CancelledError:
            self._abandon(pending)
            raise
        return pending._take_outcome()

    async def submit(self, method: str, descriptor: Mapping[str, Any] | None = None) -> Pending:
        """Sends a call and doesn't wait for its reply. Many may be in flight."""
        pending = self._start(method, descriptor, self._deadline(None))
        try:
            while not pending._done and (self._link is None or self._link.full_since is not None):
                if self._turn is None:
                    self._turn = self._loop.create_future()
                await asyncio.wait((self._turn, pending._settled), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._abandon(pending)
            raise
        return pending

    async def call_many(
        self, calls: Iterable[tuple[str, Mapping[str, Any]]], *, window: int = DEFAULT_WINDOW
    ) -> list[Any | RatelError]:
        """All the results in order, with up to `window` calls in flight; errors stand in their places."""
        outcomes: list[Any | RatelError] = []
        under_way: deque[Pending | RatelError] = deque()
        try:
            for method, descriptor in calls:
                if len(under_way) >= window:
                    outcomes.append(await _outcome(under_way[0]))
                    under_way.popleft()
                try:
                    under_way.append(await self.submit(method, descriptor))
                except RatelError as error:
                    under_way.append(error)
            while under_way:
                outcomes.append(await _outcome(under_way[0]))
                under_way.popleft()
        finally:
            for pending in under_way:  # as there are when this was cancelled
                if isinstance(pending, Pending):
                    self._abandon(pending)
        return outcomes

    # --- calls -------------------------------------------------------------------------------------

    def _start(self, method: str, descriptor: Mapping[str, Any] | None, deadline: float) -> Pending:
        loop = asyncio.get_running_loop()
        if getattr(self, "_loop", loop) is not loop:
            raise RuntimeError("this client belongs to another event loop; each loop needs one of its own")
        self._loop = loop
        pending = self._begin(method, descriptor, deadline)
        link = self._link
        if link is not None and not self._waiting and not pending._repeatable and link.is_closed():
            self._lose(link, "closed by the server")  # an idle connection: nothing was sent in vain
        self._await_reply(pending)
        self._keep_connected()
        return pending

    def _make_pending(
        self, call_id: int, message: bytes, deadline: float, repeatable: bool, request_id: str
    ) -> Pending:
        return Pending(self, call_id, message, deadline, repeatable, request_id)

    async def _result(self, pending: Pending, deadline: float) -> Any:
        """Others may wait for the same call, each for a time of its own."""
        timer = None
        if not pending._done:
            if deadline >= pending._deadline:
                pending._deadline = deadline
                pending._timer.cancel()
                pending._timer = self._call_at(deadline, self._expire, pending, deadline)
            else:
                timer = self._call_at(deadline, self._expire, pending, deadline)
        try:
            await asyncio.shield(pending._settled)
        finally:
            if timer is not None:
                timer.cancel()
        return pending._take_outcome()

    def _abandon(self, pending: Pending) -> None:
        """Nobody will ask for its outcome: its reply is dropped, and it is not sent again."""
        self._waiting.pop(pending._id, None)
        pending._timer.cancel()

    def _expire(self, pending: Pending, deadline: float) -> None:
        link = self._link
        if link is not None and link.full_since is not None and link.full_since <= pending._started:
            self._lose(link, DOES_NOT_READ)
        super()._expire(pending, deadline)

    # --- connections -------------------------------------------------------------------------------

    def _keep_connected(self) -> None:
        """There is a link, or one is being made, while calls wait."""
        if self._link is None and self._waiting and self._connecting is None:
            self._connecting = self._loop.create_task(self._connect())

    async def _connect(self) -> None:
        try:
            while self._link is None and self._waiting:
                pause_s = self._redial.at - time.monotonic()
                if pause_s > 0:
                    await asyncio.sleep(pause_s)
                    continue
                self._attempted(await self._attempt(*self._next_attempt(math.inf)))
        finally:
            self._connecting = None

    async def _attempt(self, address: Address, left_s: float) -> Link | Unauthorized | OSError | UnicodeError:
        try:
            return await self._open(address, left_s)
        except TimeoutError:
            return TimeoutError("timed out")
        except (TlsError, ssl.SSLError) as error:
            return TlsRefused(f"TLS: {explain(error)}")
        except (Unauthorized, *CANT_CONNECT) as error:
            return error

    async def _open(self, address: Address, left_s: float) -> Link:
        link = Link(self, self._api_key.read())
        async with asyncio.timeout(left_s):
            options: dict[str, Any] = {}
            if self._tls is not None:  # made anew for each connection: the files may have been renewed
                options["ssl"] = await asyncio.to_thread(self._tls.context)
                options["server_hostname"] = self._tls.server_name or address.host
            await self._loop.create_connection(lambda: link, address.host, address.port, **options)
        if link.ended.done():
            raise ConnectionResetError(link.ended.result())
        return link

    def _flush(self, link: Link) -> None:
        """With all that the tasks of this turn of the loop ask."""
        if not link.flush_is_due:
            link.flush_is_due = True
            self._loop.call_soon(link.send)
        self._look_again(link)

    def _look_again(self, link: Link) -> None:
        """At whether the server has been silent for too long, when it would have been."""
        if self._next_look is None and (at := link.doubt_at(self._patience_s)) < math.inf:
            self._next_look = self._call_at(at, self._look, link)

    def _look(self, link: Link) -> None:
        self._next_look = None
        if not link.lost and time.monotonic() >= link.doubt_at(self._patience_s):
            self._next_look = self._loop.call_later(_LAST_LOOK_S, self._last_look, link)
        else:
            self._go_on_looking()

    def _last_look(self, link: Link) -> None:
        self._next_look = None
        self._doubt(link)
        self._go_on_looking()

    def _go_on_looking(self) -> None:
        if self._link is not None:
            self._look_again(self._link)

    def _stir(self) -> None:
        if self._turn is not None:
            self._turn.set_result(None)
            self._turn = None
        if not self._closed:
            self._keep_connected()

    def _call_at(self, at: float, what: Any, *arguments: Any) -> asyncio.TimerHandle:
        return self._loop.call_later(max(at - time.monotonic(), 0), what, *arguments)


async def _outcome(pending: Pending | RatelError) -> Any | RatelError:
    """Its time counts from when it was sent: a window of calls is over as soon as one of them."""
    if isinstance(pending, RatelError):
        return pending
    try:
        return await pending._client._result(pending, pending._deadline)
    except RatelError as error:
        return error
