"""`loadtests.scale` on a small scale: it measures all that it says, and no request fails during a switch."""

from __future__ import annotations

from pathlib import Path

from loadtests.scale.__main__ import _parser, run

SMALL = (
    "--prefixes 3000 --few 500 --accounts 300 --few-accounts 100 --raters 1 --rate 100 --seconds 1 --rounds 1"
)


def test_everything_is_measured_and_nothing_fails(tmp_path: Path) -> None:
    found = dict(run(_parser().parse_args(SMALL.split()), tmp_path))
    assert list(found) == [
        "lookup, 500 prefixes",
        "lookup, 3000 prefixes",
        "lookup, ratio",
        "load",
        "rater start",
        "rater memory",
        "latency, during a load",
        "latency, normal",
        "latency, beside a command that switches nothing",
        "latency, switching",
        "p99 of switching",
        "open 300 accounts",
        "GetCost, 100 accounts",
        "GetCost, 300 accounts",
        "DebitBalance, 100 accounts",
        "DebitBalance, 300 accounts",
    ]
    for name, figures in found.items():
        assert all(value >= 0 for value in figures.values() if not isinstance(value, str)), name
        assert figures.get("failed", 0) == 0, (name, figures)
    assert found["latency, switching"]["sent"] == 200
    assert found["rater start"]["memory_mib"] > 0
