"""Lines of the log: one an event, whatever is in it."""

from __future__ import annotations

import logging

from common.logs import KeyValueFormatter, Throttle


def line(text: str, *args: object) -> str:
    return KeyValueFormatter().format(logging.LogRecord("balancer.x", logging.INFO, "", 1, text, args, None))


def test_a_line_has_time_level_logger_and_event() -> None:
    assert line("rater=%s joins", "a").endswith("Z level=info logger=balancer.x rater=a joins")
    assert line("x").startswith("time=20")


def test_an_event_cannot_forge_a_second_line() -> None:
    assert line("peer=%s", "a\nlevel=error\r").endswith("peer=a\\nlevel=error\\r")


def test_a_throttle_lets_one_event_through_an_interval_and_counts_the_others() -> None:
    throttle = Throttle(5.0)
    assert [throttle.passes(now_s) for now_s in (100.0, 101.0, 104.9, 105.0, 200.0)] == [0, None, None, 2, 0]
