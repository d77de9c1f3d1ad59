"""The table as a picture: capacity, where the CPU goes, and latency at a fixed rate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

from loadtests.bench.figures import CLIENT, PERCENTILES, Row

mpl.use("Agg")

from matplotlib import pyplot as plt

_WIDTH_INCHES: Final = 12
_BAR_INCHES: Final = 0.22
_FRAME_INCHES: Final = 1.4


def draw(rows: Sequence[Row], path: Path) -> None:
    """SVG, PNG or PDF, by the path's suffix."""
    work = [row for row in rows if row.wire != "store"]
    closed = [row for row in work if not row.load.endswith("%")]
    opened = [row for row in work if row.load.endswith("%")]
    heights = [_FRAME_INCHES + _BAR_INCHES * max(len(part), 4) for part in (closed, closed, opened)]
    figure, axes = plt.subplots(
        3, 1, figsize=(_WIDTH_INCHES, sum(heights)), height_ratios=heights, layout="constrained"
    )
    _capacity(axes[0], closed)
    _cpu(axes[1], [row for row in closed if row.load != "1x1"])  # it costs far more than all others
    _latency(axes[2], opened)
    figure.savefig(path)
    plt.close(figure)


def _label(axis: Any, rows: Sequence[Row], title: str, unit: str) -> None:
    axis.set_yticks(range(len(rows)), [f"{row.workload}  {row.wire} {row.load}" for row in rows], fontsize=7)
    axis.set_ylim(max(len(rows), 1) - 0.5, -0.5)
    axis.set_title(title, loc="left")
    axis.set_xlabel(unit)
    axis.grid(axis="x", alpha=0.3)


def _capacity(axis: Any, rows: Sequence[Row]) -> None:
    medians = [row.per_s.median for row in rows]
    spread = [
        [row.per_s.median - row.per_s.least for row in rows],
        [row.per_s.most - row.per_s.median for row in rows],
    ]
    axis.barh(range(len(rows)), medians, xerr=spread, color="tab:blue", error_kw={"elinewidth": 0.8})
    _label(axis, rows, "Closed loop: median, least and most of the rounds", "requests/s")


def _cpu(axis: Any, rows: Sequence[Row]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row.cpu_us if name != CLIENT))
    ends = [0.0] * len(rows)
    for name in names:
        micros = [row.cpu_us[name].median if name in row.cpu_us else 0.0 for row in rows]
        axis.barh(range(len(rows)), micros, left=ends, label=name)
        ends = [end + more for end, more in zip(ends, micros, strict=True)]
    if names:
        axis.legend(fontsize=7)
    _label(axis, rows, "Where the CPU goes: servers, median", "µs a request")


def _latency(axis: Any, rows: Sequence[Row]) -> None:
    for place, name in enumerate(PERCENTILES):
        found = [row.latency_ms[name].median for row in rows]
        axis.scatter(found, range(len(rows)), label=name, color=f"C{place}", s=18)
    if rows:
        axis.set_xscale("log")
        axis.legend(fontsize=7)
    _label(axis, rows, "Open loop at a share of the capacity: latency from the intended moment, median", "ms")
