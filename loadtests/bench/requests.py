"""What is asked: as many different requests of each workload as are wanted, encoded. Pure.

Every request of a pool differs from the others in subject, destination and time, so that nothing is
answered from a cache that real traffic would not fill as well.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, KeysView, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final, NamedTuple

from loadtests.bench.tariff import ON_NET, TENANT, World, cost, prefix

BALANCE: Final = 1_000_000_000
"""Cents, SMS and seconds of each account: more than any run can take, far inside what one may have."""

HOT: Final = 0
"""The account that everybody debits in the workloads of one account."""

_DAY_S: Final = 86_400
_FIRST_DAY: Final = datetime(2024, 1, 1, tzinfo=UTC)  # a Monday, as `cost` has it
_DAYS: Final = 700
_LONGEST_CALL_S: Final = 900

NUMBER_DIGITS: Final = 9
_FIRST_NUMBER: Final = 10 ** (NUMBER_DIGITS - 1)
"""All ids have as many digits, so that a reply's id is found by its place."""


class Request(NamedTuple):
    method: str
    descriptor: dict[str, str | int]
    expected: int | dict[str, str] | None = None
    """A number in thousandths, the cost of GetCost; or all of the result; None where it depends on what
    else is asked."""


Make = Callable[[Random, World], Request]


# --- requests -------------------------------------------------------------------------------------


def subject(number: int) -> str:
    return f"40256{number:08}"


def _dialled(chance: Random, world: World) -> tuple[int, str]:
    number = chance.randrange(world.prefixes)
    # A 7 right behind an even prefix would be the next one.
    return number, f"{prefix(number)}{chance.randrange(7)}{chance.randrange(100_000):05}"


def _descriptor(subscriber: str, destination: str) -> dict[str, str | int]:
    return {"CstmId": TENANT, "Subject": subscriber, "DestinationPrefix": destination}


def _get_cost_of(subscriber: str, chance: Random, world: World) -> Request:
    number, destination = _dialled(chance, world)
    day, second = chance.randrange(_DAYS), chance.randrange(_DAY_S)
    duration_s = 1 + chance.randrange(_LONGEST_CALL_S)
    start = _FIRST_DAY + timedelta(days=day, seconds=second)
    end = start + timedelta(seconds=duration_s)
    times: dict[str, str | int] = {"TimeStart": _text(start), "TimeEnd": _text(end)}
    expected = cost(number, day, second, duration_s)
    return Request("GetCost", _descriptor(subscriber, destination) | times, expected)


def _text(time: datetime) -> str:
    return f"{time.replace(tzinfo=None).isoformat()}Z"


def _anyone(chance: Random, world: World) -> str:
    return subject(chance.randrange(world.accounts))


def get_cost(chance: Random, world: World) -> Request:
    """Subjects that have no account."""
    return _get_cost_of(f"guest{chance.randrange(10**8)}", chance, world)


def get_cost_account(chance: Random, world: World) -> Request:
    return _get_cost_of(_anyone(chance, world), chance, world)


def max_session_time(chance: Random, world: World) -> Request:
    _, destination = _dialled(chance, world)
    amount = 60 + chance.randrange(3600)
    descriptor = _descriptor(_anyone(chance, world), destination) | {"Amount": amount}
    return Request("GetMaxSessionTime", descriptor, amount * 1000)


def debit(method: str, *, hot: bool) -> Make:
    """Debits of 1: so many were done as the balances have changed by."""

    def make(chance: Random, world: World) -> Request:
        subscriber = subject(HOT) if hot else _anyone(chance, world)
        destination = f"{ON_NET}{chance.randrange(10**8):08}"
        return Request(method, _descriptor(subscriber, destination) | {"Amount": 1})

    return make


_MIX: Final = {
    get_cost_account: 50,
    max_session_time: 20,
    debit("DebitBalance", hot=False): 20,
    debit("DebitSMS", hot=False): 5,
    debit("DebitSeconds", hot=False): 5,
}
"""Percent of each, 70 of them reads."""


def mix(chance: Random, world: World) -> Request:
    [make] = chance.choices(list(_MIX), list(_MIX.values()))
    return make(chance, world)


WORKLOADS: Final[dict[str, Make]] = {
    "GetCost": get_cost,
    "GetCost account": get_cost_account,
    "GetMaxSessionTime": max_session_time,
    "DebitBalance hot": debit("DebitBalance", hot=True),
    "DebitBalance spread": debit("DebitBalance", hot=False),
    "DebitSMS hot": debit("DebitSMS", hot=True),
    "DebitSMS spread": debit("DebitSMS", hot=False),
    "DebitSeconds hot": debit("DebitSeconds", hot=True),
    "DebitSeconds spread": debit("DebitSeconds", hot=False),
    "mix": mix,
}
DEBITS: Final = ("DebitBalance", "DebitSMS", "DebitSeconds")


# --- encoding -------------------------------------------------------------------------------------


def number_of(place: int) -> bytes:
    """The id of a pool's request."""
    return b"%d" % (_FIRST_NUMBER + place)


def place_of(number: bytes) -> int:
    return int(number) - _FIRST_NUMBER


def encode_rpc(request: Request, number: bytes, key: str = "") -> bytes:
    descriptor = request.descriptor | ({"RequestId": key} if key else {})
    params = json.dumps(descriptor, separators=(",", ":"))
    return b'{"id":%b,"method":"Responder.%b","params":[%b]}\n' % (
        number,
        request.method.encode(),
        params.encode(),
    )


_HTTP_NAMES: Final = {
    "CstmId": "cstmid",
    "Subject": "subj",
    "DestinationPrefix": "dest",
    "Amount": "amount",
    "TimeStart": "start",
    "TimeEnd": "end",
}


def encode_http(request: Request, number: bytes, key: str = "") -> bytes:
    """No value of ours needs percent-encoding. The number is the connection's to know."""
    query = "&".join(f"{_HTTP_NAMES[name]}={value}" for name, value in request.descriptor.items())
    target = f"/{request.method.lower()}" + (f"?{query}" if query else "")
    header = f"Idempotency-Key: {key}\r\n" if key else ""
    return f"GET {target} HTTP/1.1\r\nHost: bench\r\n{header}\r\n".encode()


MAX_SKIPS: Final = 1000
"""A few stretches of a pool hold a request that waits long for its answer; never so many."""


class Pool:
    """Encoded requests that are sent from first to last and then again.

    With `key`, a text that no other pool has, each carries an idempotency key that is never sent again.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        encode: Callable[[Request, bytes, str], bytes],
        key: str = "",
    ) -> None:
        self.requests = requests
        self._numbers = [number_of(place) for place in range(len(requests))]
        template = f"{key}-%012d" if key else ""
        self._messages = [
            encode(request, number, template) for request, number in zip(requests, self._numbers, strict=True)
        ]
        self._keyed = bool(key)
        self._next = 0
        self._serial = 0
        self._taken: list[tuple[int, int]] = []

    def take(self, count: int, busy: KeysView[bytes]) -> tuple[list[bytes], bytes]:
        """The ids and the bytes of the next requests; those with a `busy` id are passed over."""
        for _ in range(MAX_SKIPS):
            if self._next + count > len(self._messages):
                self._next = 0
            begin, self._next = self._next, self._next + count
            numbers = self._numbers[begin : self._next]
            if len(numbers) == count and busy.isdisjoint(numbers):
                break
        else:
            raise ValueError(
                f"a pool of {len(self._messages)} requests is too small for {len(busy)} in flight"
            )
        self._taken.append((begin, self._next))
        data = b"".join(self._messages[begin : self._next])
        if self._keyed:
            data %= tuple(range(self._serial, self._serial + count))
            self._serial += count
        return numbers, data

    def taken(self) -> Counter[str]:
        """How many of each method were taken since this was last asked."""
        counts = Counter(
            self.requests[place].method for begin, end in self._taken for place in range(begin, end)
        )
        self._taken.clear()
        return counts


def make_requests(workload: str, count: int, world: World, seed: int = 0) -> list[Request]:
    chance = Random(f"{workload} {seed}")
    make = WORKLOADS[workload]
    return [make(chance, world) for _ in range(count)]


def fault(request: Request, result: Any) -> str:
    """What is wrong with a result, "" if nothing is."""
    if isinstance(request.expected, dict):
        return "" if result == request.expected else f"{request} gave {result!r:.200}"
    value = result.get("Cost") if isinstance(result, dict) else result
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"{request} gave {result!r:.200}, no number"
    if request.expected is not None and round(value * 1000) != request.expected:
        return f"{request} gave {value}, not {request.expected / 1000}"
    return ""
