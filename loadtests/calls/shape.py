"""A day of users for locust, squeezed into the length of a test."""

from __future__ import annotations

from typing import Final

from locust import LoadTestShape

from loadtests.calls.day import users_at

PEAK_SPAWNED_IN_S: Final = 5
"""Users come and go so fast that the shape is followed within a fraction of its hour."""


class BusyHours(LoadTestShape):
    """A day of `--day` seconds with `--peak` users in its busiest hour, then the end."""

    def tick(self) -> tuple[int, float] | None:
        assert self.runner is not None
        options = self.runner.environment.parsed_options
        assert options is not None
        second = self.get_run_time()
        if second >= options.day:
            return None
        return users_at(second, options.day, options.peak), max(1, options.peak / PEAK_SPAWNED_IN_S)
