"""How much a key or a tenant may ask: a token bucket and a count of what is in flight. No clock.

`ask` says how many of some requests there is room for, `take` takes it, `give_back` is for each answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from common.errors import TooManyRequests, encode_error
from common.security.api_keys import Limits

IN_FLIGHT_PAUSE_MS: Final = 100
"""What to wait where answers have to come first: some batches of a rater."""


class Meter:
    def __init__(self, whose: str, limits: Limits) -> None:
        self.whose = whose
        """In messages: `key 4f1c9a02b7`, `tenant 'vdf'`."""
        self.in_flight = 0
        self._tokens = 0.0
        self._filled_s: float | None = None
        self.limits = limits

    @property
    def limits(self) -> Limits:
        return self._limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        """May change at any time: what is in flight stays so, and a smaller bucket is full at most."""
        self._limits = limits
        self._rate = limits.rate
        self._burst = float(limits.burst or max(limits.rate or 0.0, 1.0))
        self._most_in_flight = limits.in_flight

    def ask(self, wanted: int, now_s: float) -> int:
        """How many there is room for now; `now_s` never runs back."""
        room = wanted
        if self._rate is not None:
            if self._filled_s is None:
                self._tokens = self._burst
            else:
                self._tokens = min(self._burst, self._tokens + (now_s - self._filled_s) * self._rate)
            self._filled_s = now_s
            room = min(room, int(self._tokens))
        if self._most_in_flight is not None:
            room = min(room, self._most_in_flight - self.in_flight)
        return max(room, 0)

    def take(self, count: int) -> None:
        if self._rate is not None:
            self._tokens -= count
        self.in_flight += count

    def give_back(self, count: int = 1) -> None:
        self.in_flight -= count

    def refusal(self) -> TooManyRequests:
        """Why there was room for no more, when it was last asked."""
        if self._rate is not None and self._tokens < 1:
            pause_ms = max(1, -int((self._tokens - 1) * 1000 // self._rate))
            detail = f"{self.whose} may ask {self._rate:g} requests a second, {self._burst:g} at once"
        else:
            pause_ms = IN_FLIGHT_PAUSE_MS
            detail = f"{self.whose} may have {self._most_in_flight} requests in flight"
        return TooManyRequests(detail=detail, retry_after_ms=pause_ms)


def take(meters: Sequence[Meter], wanted: int, now_s: float) -> tuple[int, bytes]:
    """Take as many as all of the meters have room for; how many that is, and the error for the others."""
    admitted, error = wanted, b""
    for meter in meters:
        room = meter.ask(wanted, now_s)
        if room < admitted:
            admitted, error = room, encode_error(meter.refusal())
    for meter in meters:
        meter.take(admitted)
    return admitted, error
