"""The price of seconds computed in Lua's doubles is that of exact integers, to the last digit."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.money import LIMIT, MICRO, price_of

SCRIPT = (files("rater") / "lua" / "_price.lua").read_text() + (
    "local out = {}\n"
    "for i = 1, #ARGV, 2 do\n"
    "  out[#out + 1] = string.format('%.0f', price_of(tonumber(ARGV[i]), tonumber(ARGV[i + 1])))\n"
    "end\n"
    "return out\n"
)
EXTREMES = sorted(
    {
        value
        for base in (0, 1, 499, 500, 501, 10**3, 10**6, 5 * 10**8, 10**9, 10**12, 10**15, 2**26, 2**52, LIMIT)
        for near in (-1, 0, 1)
        for value in (base + near,)
        if 0 <= value <= LIMIT
    }
)
FACTORS = st.one_of(
    st.integers(0, LIMIT), st.sampled_from(EXTREMES), st.integers(0, 53).map(lambda bits: 2**bits - 1)
)


def check(store: Any, pairs: list[tuple[int, int]]) -> None:
    words = [word for pair in pairs for word in pair]
    [prices] = store.execute([("EVAL", SCRIPT, 0, *words)])
    for (duration_us, price_nanos), got in zip(pairs, map(int, prices), strict=True):
        exact = price_of(duration_us, price_nanos, MICRO)
        if exact <= LIMIT:
            assert got == exact, (duration_us, price_nanos)
        else:
            assert got > LIMIT, (duration_us, price_nanos)


def test_extremes(store: Any) -> None:
    check(store, [(duration_us, price_nanos) for duration_us in EXTREMES for price_nanos in EXTREMES])


def test_halves_round_up_and_what_is_below_rounds_down(store: Any) -> None:
    odd = [1, 3, 10**6 + 1, 12_345_677, 4_503_599]
    check(store, [(n, 500_000_000 + off) for n in odd for off in (-1, 0, 1)])
    check(store, [(500_000_000 + off, n) for n in odd for off in (-1, 0, 1)])


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(pairs=st.lists(st.tuples(FACTORS, FACTORS), min_size=1, max_size=100))
def test_any_duration_at_any_price(store: Any, pairs: list[tuple[int, int]]) -> None:
    check(store, pairs)
    # Pairs whose product is about 2^53 billion: at the edge of what a balance holds.
    check(store, [(a, min(LIMIT, LIMIT * 10**9 // a)) for a, _ in pairs if a])
