"""How many users there are over a day: quiet at night, a busy hour in the morning, another in the evening.

The day is squeezed into the length of the test. Source of the profile: the shape that carriers publish of
their voice traffic, in tenths of the busiest hour.
"""

from __future__ import annotations

from typing import Final

from locust import LoadTestShape

TENTHS_BY_HOUR: Final = (2, 1, 1, 1, 1, 2, 3, 5, 8, 10, 10, 9, 8, 8, 8, 9, 9, 9, 10, 9, 8, 6, 4, 3)
"""From midnight on."""

SPAWN_PER_S_OF_PEAK: Final = 5
"""Users come and go so fast that the shape is followed within a fraction of its hour."""


def users_at(second: float, day_s: float, peak: int) -> int:
    """How many of `peak` users there are, between the hours in proportion; at least one."""
    hour = second / day_s * len(TENTHS_BY_HOUR)
    before = int(hour) % len(TENTHS_BY_HOUR)
    after = (before + 1) % len(TENTHS_BY_HOUR)
    share = hour - int(hour)
    tenths = TENTHS_BY_HOUR[before] * (1 - share) + TENTHS_BY_HOUR[after] * share
    return max(1, round(peak * tenths / 10))


class BusyHours(LoadTestShape):
    """A day of `--day` seconds with `--peak` users in its busiest hour, then the end."""

    def tick(self) -> tuple[int, float] | None:
        assert self.runner is not None
        options = self.runner.environment.parsed_options
        assert options is not None
        second = self.get_run_time()
        if second >= options.day:
            return None
        return users_at(second, options.day, options.peak), max(1, options.peak / SPAWN_PER_S_OF_PEAK)
