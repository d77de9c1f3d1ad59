"""The users that locust runs: a switch, many calls at once over JSON-RPC, and a billing system over HTTP.

Both do with each call what a carrier does: ask how long the subscriber may talk, price and debit each slice
of the call when it is over, and book the last one at the end. Time runs `--speed` times as fast as in life.
"""

from __future__ import annotations

import heapq
import random
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final
from urllib.parse import urlencode

import gevent
import msgspec
from locust import FastHttpUser, User, constant, task
from locust.event import EventHook

from common.client import JSONClient, Pending
from common.errors import CallerError, RatelError, decode_error
from loadtests.calls.books import Books, Debit
from loadtests.calls.plan import ASKED_S, TENANT, Call, Charge, charges, draw_call, rfc3339

call_authorized: Final = EventHook()
"""Fired with `call` and `granted_s`."""
call_refused: Final = EventHook()
"""Fired with `call`: the subscriber may not talk at all."""
call_ended: Final = EventHook()
"""Fired with `call`, `talked_s` and `cut`: whether it ended because the money did."""

BOOKS: Final = Books()
"""Of this process."""

HTTP_TRIES: Final = 3

_decode: Final = msgspec.json.Decoder(float_hook=Decimal).decode


class Channel:
    """One call of a switch, from authorization to the last charge."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.left: Iterator[Charge] = iter(())
        self.charge: Charge | None = None
        self.pending: Pending | None = None
        self.debit: Debit | None = None
        self.method = ""
        self.sent_s = 0.0

    def fields(self, **more: Any) -> dict[str, Any]:
        return {"CstmId": TENANT, "Subject": self.call.subject, "DestinationPrefix": self.call.number, **more}


class SwitchUser(User):
    """A trunk group: `--channels` calls at a time on one connection, whose requests are pipelined."""

    wait_time = constant(0)

    def on_start(self) -> None:
        options = self.environment.parsed_options
        assert options is not None
        self.rpc = JSONClient(options.address)
        self.subscribers, self.speed = options.subscribers, options.speed
        self.chance = random.Random()
        self.number = 0
        self.due: list[tuple[float, int, Channel]] = []
        """Channels by the time at which they have something to ask."""
        for _ in range(options.channels):
            self.pick_up()

    def on_stop(self) -> None:
        self.rpc.close()

    def pick_up(self) -> None:
        """A new call on a free channel, after a pause."""
        call = draw_call(self.chance, self.subscribers, datetime.now(UTC))
        self.at(self.chance.expovariate(1.0), Channel(call))

    def at(self, seconds: float, channel: Channel) -> None:
        self.number += 1
        heapq.heappush(self.due, (time.monotonic() + seconds / self.speed, self.number, channel))

    @task
    def serve_channels(self) -> None:
        """Send what all channels have to ask by now in one go, then take the answers."""
        gevent.sleep(max(0.001, self.due[0][0] - time.monotonic()))
        now_s = time.monotonic()
        asking: list[Channel] = []
        while self.due and self.due[0][0] <= now_s:
            asking.append(heapq.heappop(self.due)[2])
        for channel in asking:
            self.ask(channel)
        while asking:
            asking = [channel for channel in asking if self.take(channel)]

    def ask(self, channel: Channel) -> None:
        call, charge = channel.call, channel.charge
        if charge is None:
            self.send(channel, "GetMaxSessionTime", channel.fields(Amount=ASKED_S))
        else:
            times = {
                "TimeStart": rfc3339(call.start, charge.begin_s),
                "TimeEnd": rfc3339(call.start, charge.end_s),
            }
            self.send(channel, "GetCost", channel.fields(**times))

    def send(self, channel: Channel, method: str, fields: dict[str, Any]) -> None:
        channel.method, channel.sent_s = method, time.perf_counter()
        channel.pending = self.rpc.submit(method, fields)

    def take(self, channel: Channel) -> bool:
        """Take a channel's answer; whether it has asked the next thing already."""
        assert channel.pending is not None
        failure: RatelError | None = None
        result: Any = None
        try:
            result = channel.pending.result()
        except RatelError as error:
            failure = error
        self.environment.events.request.fire(
            request_type="JSON-RPC",
            name=channel.method,
            response_time=(time.perf_counter() - channel.sent_s) * 1000,
            response_length=0,
            exception=None if is_expected(channel.method, failure) else failure,
        )
        if channel.method == "GetMaxSessionTime":
            self.begin(channel, None if failure else Decimal(result))
        elif channel.method == "GetCost":
            if failure is None:
                return self.charge(channel, result)
            self.end(channel, cut=False)
        else:
            self.book(channel, failure)
        return False

    def begin(self, channel: Channel, granted_s: Decimal | None) -> None:
        if not granted_s:
            if granted_s is not None:
                call_refused.fire(call=channel.call)
            self.pick_up()
            return
        call_authorized.fire(call=channel.call, granted_s=granted_s)
        channel.left = charges(min(channel.call.talk_s, int(granted_s)))
        self.go_on(channel)

    def go_on(self, channel: Channel) -> None:
        """Wait for the end of the next slice."""
        channel.charge = next(channel.left, None)
        if channel.charge is None:
            self.end(channel, cut=False)
        else:
            self.at(channel.charge.end_s - channel.charge.begin_s, channel)

    def charge(self, channel: Channel, cost: dict[str, Any]) -> bool:
        assert channel.charge is not None
        fee = cost["ConnectFee"] if channel.charge.begin_s == 0 else 0
        amount = Decimal(str(cost["Cost"])) + Decimal(str(fee))
        channel.debit = BOOKS.begin(channel.call.subject, channel.call.number, amount)
        self.send(channel, "DebitBalance", channel.debit.fields)
        return True

    def book(self, channel: Channel, failure: RatelError | None) -> None:
        assert channel.debit is not None
        if failure is None:
            BOOKS.done(channel.debit)
            self.go_on(channel)
            return
        if isinstance(failure, CallerError):
            BOOKS.refused(channel.debit)
        self.end(channel, cut=isinstance(failure, CallerError))

    def end(self, channel: Channel, *, cut: bool) -> None:
        charge = channel.charge
        talked_s = channel.call.talk_s if charge is None else charge.begin_s
        call_ended.fire(call=channel.call, talked_s=talked_s, cut=cut)
        self.pick_up()


def is_expected(method: str, failure: RatelError | None) -> bool:
    """That somebody runs out of money is no failure of the service."""
    return failure is None or (method == "DebitBalance" and failure.name == "below_floor")


class BillingUser(FastHttpUser):
    """A billing system: one call after the other, over HTTP."""

    wait_time = constant(0)

    def on_start(self) -> None:
        options = self.environment.parsed_options
        assert options is not None
        self.subscribers, self.speed = options.subscribers, options.speed
        self.chance = random.Random()

    def ask(self, path: str, call: Call, key: str = "", **params: Any) -> tuple[Any, RatelError | None]:
        """The result, or why there is none."""
        query = {"cstmid": TENANT, "subj": call.subject, "dest": call.number, **params}
        headers = {"Idempotency-Key": key} if key else {}
        with self.client.get(
            f"/{path}?{urlencode(query)}", name=f"/{path}", headers=headers, catch_response=True
        ) as response:
            body = response.text or ""
            if response.status_code == 200:
                return _decode(body), None
            error = RatelError(detail=f"HTTP status {response.status_code}")
            with suppress(msgspec.MsgspecError, KeyError, TypeError):
                error = decode_error(msgspec.json.encode(msgspec.json.decode(body)["error"]))
            if error.name == "below_floor":
                response.success()
            return None, error

    @task
    def call_somebody(self) -> None:
        call = draw_call(self.chance, self.subscribers, datetime.now(UTC))
        granted_s, failure = self.ask("getmaxsessiontime", call, amount=ASKED_S)
        if failure is not None:
            return
        if not granted_s:
            call_refused.fire(call=call)
            return
        call_authorized.fire(call=call, granted_s=granted_s)
        talked_s = 0
        for charge in charges(min(call.talk_s, int(granted_s))):
            gevent.sleep((charge.end_s - charge.begin_s) / self.speed)
            if not self.book(call, charge):
                call_ended.fire(call=call, talked_s=talked_s, cut=True)
                return
            talked_s = charge.end_s
        call_ended.fire(call=call, talked_s=talked_s, cut=False)

    def book(self, call: Call, charge: Charge) -> bool:
        """Price a slice and debit it, again under the same key while it is not known what became of it."""
        times = {"start": rfc3339(call.start, charge.begin_s), "end": rfc3339(call.start, charge.end_s)}
        cost, failure = self.ask("getcost", call, **times)
        if failure is not None:
            return False
        amount = Decimal(cost["Cost"]) + (Decimal(cost["ConnectFee"]) if charge.begin_s == 0 else 0)
        debit = BOOKS.begin(call.subject, call.number, amount)
        for _ in range(HTTP_TRIES):
            _, failure = self.ask("debitbalance", call, debit.request_id, amount=amount)
            if failure is None:
                BOOKS.done(debit)
                return True
            if isinstance(failure, CallerError):
                BOOKS.refused(debit)
                return False
        return False
