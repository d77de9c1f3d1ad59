"""Which of the store's times are possible at which true ones, with a clock that is moved."""

from __future__ import annotations

import pytest

from tests.chaos.timeline import Timeline

S = 1_000_000


def moved(*moves: tuple[int, int, int]) -> Timeline:
    """Moves in seconds: between which moments, and how far ahead the clock is then."""
    timeline = Timeline()
    for before_s, after_s, ahead_s in moves:
        timeline.moved(before_s * S, after_s * S, ahead_s * S)
    return timeline


@pytest.mark.parametrize("store_s", range(8, 14))
def test_a_clock_that_is_never_moved_shows_the_true_time(store_s: int) -> None:
    assert Timeline().possible(store_s * S, 10 * S, 12 * S) == (10 <= store_s <= 12)
    assert Timeline().latest(12 * S) == 12 * S


@pytest.mark.parametrize(
    ("from_s", "to_s", "least_s", "most_s"),
    [
        (90, 99, 90, 99),  # before any move
        (95, 105, 95, 125),  # the move is within
        (100, 101, 100, 121),  # it may have come at either end
        (105, 110, 125, 130),  # ahead
        (115, 120, 115, 132),  # set back: journals stand at their highest time
        (130, 133, 130, 133),  # until the clock has passed it
    ],
)
def test_a_clock_that_was_set_ahead_and_back(from_s: int, to_s: int, least_s: int, most_s: int) -> None:
    timeline = moved((100, 101, 20), (112, 112, 0))
    for store_s in range(60, 160):
        expected = least_s <= store_s <= most_s
        assert timeline.possible(store_s * S, from_s * S, to_s * S) == expected, store_s


def test_a_clock_that_was_set_back_and_ahead() -> None:
    timeline = moved((100, 100, -20), (112, 112, 0))
    assert [s for s in range(60, 160) if timeline.possible(s * S, 105 * S, 106 * S)] == [*range(85, 101)]
    assert [s for s in range(60, 160) if timeline.possible(s * S, 113 * S, 114 * S)] == [113, 114]
    assert timeline.latest(105 * S) == 100 * S


def test_two_clocks_do_not_share_their_moves() -> None:
    moved((100, 100, 50))
    assert Timeline().latest(200 * S) == 200 * S
