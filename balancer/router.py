"""The router: performs what dispatch decides, on ZeroMQ sockets, in the running event loop.

Its peers (`balancer.peers`) are a balancer's raters, or a gateway's balancers. After every receive and every
send it has to be asked whether there is input. That costs a system call, so it is asked once after all that
was sent in a turn, and after each message.

Natural batching: requests submitted in one turn of the loop leave together, one message per rater,
when the turn is over. There are no timers on that way, so a single request leaves at once.

Sends never block. A rater that cannot be routed to (EHOSTUNREACH) is dead: its connection is gone. One whose
queue is full (EAGAIN) is out too, but that is no death.

A killed process' connections are closed by its kernel at once. The socket's monitor tells that some
connection ended, not whose: every rater is sent a BEAT then, and the dead one cannot be routed to.
Connections behind a network that swallows everything are ended by ZeroMQ's own heartbeats.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol

import zmq

from balancer.actions import Action, Answer, OnAnswer, Request, Send, SendDrained, Sink
from balancer.dispatch import Dispatch, DispatchSettings, Readiness
from balancer.peers import Peers
from balancer.telemetry import SECOND_US, Telemetry
from common import about
from common.clock import monotonic_us
from common.errors import with_log_id
from common.logs import Throttle
from common.methods import Method
from common.outcomes import outcome_name
from common.rpc.jsonrpc import Call
from common.wire import (
    CLIENT_KEY,
    HEARTBEAT_MS,
    ITEM_BYTES,
    MAX_FRAME_BYTES,
    MISSED_BEATS,
    PROBE,
    PROTOCOL,
    TOKEN_KEY,
    Kind,
    WireError,
    WorkItem,
    decode,
    encode_beat,
    encode_drained,
    encode_join,
    encode_work,
    fitting,
)

log = logging.getLogger(__name__)

FRAMES_A_TURN: Final = 256
"""Frames taken before gateways get their turn: enough for every rater, some milliseconds of work."""

TICK_S: Final = 0.05
"""How late a deadline may be noticed."""

PROBE_S: Final = 0.01
"""From the end of a connection to the look for whose it was: what arrived by it counts first, and a
thousand connections that end together cost one look."""

MAX_SHOWN_METHOD: Final = 40
"""Of a name in a log: longer than all that there are."""

WARN_EVERY_S: Final = 5.0
"""Bad messages are reported no more often than this."""


class Clients(Protocol):
    """What takes the messages that clients send."""

    def receive(self, client: bytes, kind: Kind, fields: list[Any], now_us: int) -> None: ...

    def write(self) -> None:
        """Called when a turn is over: send the answers that it brought."""

    def beat(self, now_us: int) -> None:
        """Called with each heartbeat."""


class Router:
    """Use within a running loop: `open`, then `submit` as often as wanted, then `close`."""

    def __init__(self, settings: DispatchSettings, peers: Peers, router_id: str) -> None:
        self.clients: Clients | None = None
        """Where to go with what clients send; None where nobody is expected to."""
        self.id = router_id
        """New with each start, see `common.wire`."""
        self.telemetry = Telemetry(monotonic_us())
        self.refused: Counter[str] = Counter()
        """What gateways answered with an error without submitting it, by the error's name."""
        self.each_second: list[Callable[[], None]] = []
        """Called when a second of `telemetry` is over."""
        self._deadline_us = settings.deadline_us
        self._dispatch = Dispatch(settings)
        self._peers = peers
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._probe: asyncio.TimerHandle | None = None
        self._next_beat_us = 0
        self._next_second_us = self.telemetry.started_us + SECOND_US
        self._flushing = False
        self._draining = False
        """`_drain` is to be called: there is input."""
        self._unsure = True
        """Whether there is input was not asked since the last send, or was not at its end."""
        self._turn_us = 0
        self._silent: set[bytes] = set()
        self._bad_messages = Throttle(WARN_EVERY_S)

    def open(self) -> None:
        """Begin to work."""
        self._peers.watch(self._drain_at_once, self._connection_ended)
        self._tick()

    def close(self) -> None:
        for timer in (self._timer, self._probe):
            if timer is not None:
                timer.cancel()
        self._peers.close()

    # --- for the gateways --------------------------------------------------------------------

    def submit(self, method: Method, params: bytes, client_key: str, callback: OnAnswer) -> int:
        """Have a request carried out. `callback` gets its one reply, at once when it is refused.

        Its number among all here is returned, for `token_of`; 0 when it was refused.
        """
        key = f"{CLIENT_KEY}{client_key}" if client_key else ""
        request = Request(method.name, params, key, callback)
        self.submit_request(request)
        return request.seq

    def submit_request(self, request: Request) -> None:
        if not self._flushing:
            self._flush_soon()
        refusal = self._dispatch.submit(request, self._turn_us)
        if refusal is not None:
            self._answer([refusal])

    def submit_all(self, calls: Sequence[Call], sink: Sink) -> None:
        """As `submit` for each call, without client keys; the replies go to `sink`, by the calls' slots."""
        if not self._flushing:
            self._flush_soon()
        refusals = self._dispatch.submit_all(calls, sink, self._turn_us)
        if refusals:
            self._answer(refusals)

    def refuse_all(self, calls: Sequence[Call], sink: Sink) -> None:
        """As `submit_all`, but nothing is carried out: the answers are Overloaded."""
        for slot, method, params in calls:
            request = Request(method.name, params, "", None, sink, slot)
            self._answer([self._dispatch.refuse(request)])

    def turn_away(self, method: Method) -> bytes | None:
        """The error Overloaded if there is no room for one more request now, else None."""
        refusal = self._dispatch.turn_away()
        if refusal is not None:
            self.telemetry.turned_one_away(method.name)
        return refusal

    @property
    def overloaded(self) -> bool:
        return self._dispatch.overloaded

    @property
    def readiness(self) -> Readiness:
        return self._dispatch.readiness

    @property
    def dispatch(self) -> Dispatch:
        """To look at only."""
        return self._dispatch

    @property
    def unanswered(self) -> int:
        return self._dispatch.unanswered

    async def drain(self, timeout_s: float) -> None:
        """Wait until all is answered that was asked for."""
        give_up_s = time.monotonic() + timeout_s
        while self.unanswered and time.monotonic() < give_up_s:
            await asyncio.sleep(0.01)

    def refuse_new(self) -> None:
        """From now on new requests get ShuttingDown; those that are here run on."""
        self._dispatch.close()

    # --- sending -----------------------------------------------------------------------------

    def _flush(self) -> None:
        self._flushing = False
        if self._peers.closed:
            return
        now_us = monotonic_us()
        for send in self._dispatch.flush(now_us):
            self._send_work(send.rater_id, send.items, now_us)
        self._look_again()

    def _perform(self, actions: Iterable[Action]) -> None:
        for action in actions:
            if type(action) is Answer:
                self._answer([action])
            elif type(action) is Send:
                self._send_work(action.rater_id, action.items, monotonic_us())
            elif type(action) is SendDrained:
                self._send(action.rater_id, encode_drained(self.id))

    def _answer(self, answers: Sequence[Answer]) -> None:
        for request, code, body, replayed in answers:
            try:
                if code and request.seq:
                    body = with_log_id(body, request.key or self.token_of(request.seq))  # noqa: PLW2901
                if request.sink is not None:
                    request.sink.answer(request.slot, code, body)
                elif request.on_answer is not None:
                    request.on_answer(code, body, replayed)
            except Exception:  # a fault of one gateway's: the other answers must not be lost for it
                log.exception("an answer failed method=%s code=%s", request.method, code)
        now_us = monotonic_us()
        self.telemetry.answered(answers, now_us, self._deadline_us)
        if log.isEnabledFor(logging.DEBUG):
            self._log_answers(answers, now_us)

    def token_of(self, seq: int) -> str:
        """Names a request without a key as its rater and the journal do."""
        return f"{TOKEN_KEY}{self.id}-{seq}"

    def _log_answers(self, answers: Sequence[Answer], now_us: int) -> None:
        for request, code, _, replayed in answers:
            took_us = now_us - request.deadline_us + self._deadline_us if request.deadline_us else 0
            log.debug(
                "id=%s method=%s outcome=%s us=%s attempts=%s replayed=%s",
                request.key or self.token_of(request.seq),
                request.method.partition(" ")[0][:MAX_SHOWN_METHOD],
                outcome_name(code),
                took_us,
                request.attempts,
                replayed,
            )

    def _send_work(self, rater_id: bytes, items: list[WorkItem], now_us: int) -> None:
        self.telemetry.sent(len(items))
        if self._dispatch.queued_bytes + ITEM_BYTES * len(items) <= MAX_FRAME_BYTES:
            self._send(rater_id, encode_work(self.id, now_us, items), items)
            return
        while items:
            count = fitting(items, MAX_FRAME_BYTES)
            frame = encode_work(self.id, monotonic_us(), items[:count])
            if not self._send(rater_id, frame, items):
                break
            items = items[count:]

    def send_to_client(self, client: bytes, frame: bytes) -> bool:
        """Whether it could be sent."""
        self._unsure = True
        try:
            self._peers.send(client, frame)
        except zmq.ZMQError:
            return False
        return True

    def _send(self, rater_id: bytes, frame: bytes, unsent: Sequence[WorkItem] = ()) -> bool:
        """Whether it could be sent; if not, the rater is out. `unsent` is the work lost with it."""
        self._unsure = True
        try:
            self._peers.send(rater_id, frame)
        except zmq.ZMQError as error:
            name = self._dispatch.rater_name(rater_id)
            if name is not None:
                log.warning("rater=%s lost: %s", name, error)
            dead = error.errno == zmq.EHOSTUNREACH
            self._perform(self._dispatch.lost(rater_id, {item.seq for item in unsent}, dead=dead))
            if not self._flushing:
                self._flush_soon()
            return False
        return True

    def _beat(self) -> None:
        frame = encode_beat(self.id, monotonic_us())
        for rater_id in self._dispatch.rater_ids():
            self._send(rater_id, frame)
        for balancer in self._peers.asked:
            self._send(balancer, encode_join(self.id))
        if self.clients is not None:
            self.clients.beat(monotonic_us())

    def _flush_soon(self) -> None:
        self._flushing = True
        self._turn_us = monotonic_us()
        self._loop.call_soon(self._flush)

    # --- receiving ---------------------------------------------------------------------------

    def _look_again(self) -> None:
        """After a send: what arrived meanwhile may not make the file descriptor readable again."""
        if self.clients is not None:
            self.clients.write()
        if self._unsure and not self._draining:
            self._unsure = False
            if self._peers.has_input():
                self._draining = True
                self._loop.call_soon(self._drain)

    def _drain_at_once(self) -> None:
        """The file descriptor is readable: hardly ever for anything but a message."""
        self._draining = True
        self._drain()

    def _drain(self) -> None:
        """Take what has arrived."""
        has_input, self._draining = self._draining, False
        if self._peers.closed:
            return
        self._unsure = True
        try:
            self._take_frames(has_input)
        except zmq.Again:
            self._unsure = True
        self._flush()

    def _take_frames(self, has_input: bool) -> None:
        for _ in range(FRAMES_A_TURN):
            if not has_input and not self._peers.has_input():
                self._unsure = False
                break
            has_input = False
            peer, frame, surplus = self._peers.receive()
            if surplus:
                self.complain(peer, f"{1 + surplus} frames, expected 1")
            else:
                self._receive(peer, frame)

    def _receive(self, rater_id: bytes, frame: bytes) -> None:
        if frame == PROBE:
            self.send_to_client(rater_id, encode_beat(self.id, monotonic_us()))
            return
        try:
            kind, fields = decode(frame)
        except WireError as error:
            self.complain(rater_id, str(error))
            return
        now_us = monotonic_us()
        if kind is Kind.DONE:
            if fields[0] == self.id:  # else they answer a predecessor of this process
                self._answer(self._dispatch.replies(rater_id, fields[1], now_us, fields[2]))
        elif kind is Kind.STATE:
            self._take_state(rater_id, fields, now_us)
        elif kind is Kind.ABOUT:
            self._take_about(rater_id, fields[0])
        elif kind is Kind.LEAVE:
            log.info("rater=%s leaves", self._dispatch.rater_name(rater_id))
            self._perform(self._dispatch.leave(rater_id, now_us))
        elif kind is Kind.GOODBYE:
            log.info("rater=%s says goodbye", self._dispatch.rater_name(rater_id))
            self._perform(self._dispatch.goodbye(rater_id))
        elif kind is Kind.BEAT and rater_id in self._peers.asked:
            # The connection is new, and may have taken answers with it when the one before ended.
            self._perform(self._dispatch.goodbye(rater_id))
            self._send(rater_id, encode_join(self.id))
        elif self.clients is not None and kind in (Kind.JOIN, Kind.WORK, Kind.BEAT, Kind.DRAINED):
            self.clients.receive(rater_id, kind, fields, now_us)
        else:
            self.complain(rater_id, f"a {kind.name}, which is not for us")

    def _take_state(self, rater_id: bytes, fields: list[Any], now_us: int) -> None:
        protocol, name, credit, tariff_epoch = fields
        if protocol != PROTOCOL:
            self.complain(rater_id, f"protocol {protocol}, this process speaks {PROTOCOL}")
            return
        if self._dispatch.rater_name(rater_id) not in (None, "", name):
            # Another life at the same address: a balancer that was started again, before its end was noticed.
            self._perform(self._dispatch.lost(rater_id, dead=True))
        if self._dispatch.state(rater_id, name, credit, tariff_epoch, now_us):
            log.info("rater=%s joins credit=%s tariff_epoch=%s", name, credit, tariff_epoch)
            self._send(rater_id, encode_beat(self.id, now_us))

    def _take_about(self, rater_id: bytes, text: bytes) -> None:
        try:
            said = about.decode(text)
        except ValueError as error:
            self.complain(rater_id, str(error))
            return
        if self._dispatch.rater_name(rater_id) is not None:
            self.telemetry.abouts[rater_id] = said

    def complain(self, rater_id: bytes, what: str) -> None:
        held = self._bad_messages.passes(time.monotonic())
        if held is not None:
            log.warning("bad message peer=%s held_back=%s: %s", rater_id[:32].hex(), held, what)

    # --- the passing of time -----------------------------------------------------------------

    def _tick(self) -> None:
        self._timer = self._loop.call_later(TICK_S, self._tick)
        self._drain()  # what arrived while this process was held up counts first
        now_us = monotonic_us()
        self._perform(self._dispatch.tick(now_us))
        self._report_silence()
        if now_us >= self._next_beat_us:
            self._next_beat_us = now_us + HEARTBEAT_MS * 1000
            self._beat()
        self._perform(self._dispatch.flush(now_us))
        self._look_again()
        if now_us >= self._next_second_us:
            self._end_second(now_us)

    def _end_second(self, now_us: int) -> None:
        self._next_second_us = max(self._next_second_us, now_us - SECOND_US // 2) + SECOND_US
        self.telemetry.tick(now_us, self._dispatch.rater_ids())
        for call in self.each_second:
            call()

    def _report_silence(self) -> None:
        silent = self._dispatch.silent_rater_ids()
        for rater_id in silent - self._silent:
            name = self._dispatch.rater_name(rater_id)
            log.warning("rater=%s is silent for %s heartbeats, its work goes elsewhere", name, MISSED_BEATS)
        for rater_id in self._silent - silent:
            name = self._dispatch.rater_name(rater_id)
            if name is not None:
                log.info("rater=%s is heard again", name)
        self._silent = silent

    def _connection_ended(self) -> None:
        if self._probe is None:
            self._probe = self._loop.call_later(PROBE_S, self._look_for_the_dead)

    def _look_for_the_dead(self) -> None:
        self._probe = None
        self._drain()
        self._beat()
        self._look_again()
