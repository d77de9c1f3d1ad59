"""Rows as a Markdown table that reads well as plain text, and everything as JSON. Pure, but for `machine`."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from common.compiled import is_compiled
from loadtests.bench.figures import CLIENT, PERCENTILES, RATIOS, Row, Sample, Spread, ratios

HEADER: Final = (
    "workload",
    "wire",
    "load",
    "req/s",
    "min–max",
    *(f"{name} ms" for name in PERCENTILES),
    "errors",
    "CPU µs",
    "min–max",
    "store",
    "balancers",
    "gateways",
    "raters",
    "up",
    "client",
    *RATIOS,
)
_TEXTS: Final = {0, 1, 2}
"""Columns that are set left."""


def number(value: float) -> str:
    """Three digits are what a figure of a benchmark is good for."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _range(spread: Spread) -> str:
    return f"{number(spread.least)}–{number(spread.most)}"


def _cells(row: Row, rows: dict[tuple[str, str, str], Row]) -> list[str]:
    cpu = {name: number(spread.median) for name, spread in row.cpu_us.items()}
    found = ratios(row, rows)
    return [
        row.workload,
        row.wire,
        row.load,
        number(row.per_s.median),
        _range(row.per_s),
        *(number(spread.median) for spread in row.latency_ms.values()),
        str(row.errors + row.unanswered),
        number(row.servers_us.median),
        _range(row.servers_us),
        *(_each(cpu, kind) for kind in ("store", "balancer", "gateway", "rater")),
        cpu.get("up", "–"),
        cpu[CLIENT],
        *(number(found[name]) if name in found else "–" for name in RATIOS),
    ]


def _each(cpu: dict[str, str], kind: str) -> str:
    return " + ".join(text for name, text in cpu.items() if name.split()[0] == kind) or "–"


def table(rows: Sequence[Row]) -> str:
    by_key = {row.key: row for row in rows}
    return markdown(HEADER, [_cells(row, by_key) for row in rows], _TEXTS)


def memory_table(rows: Sequence[Row]) -> str:
    """The most that each process of the cluster had after a run of each workload."""
    names: dict[str, None] = {}
    most: dict[str, dict[str, float]] = {}
    for row in rows:
        seen = most.setdefault(row.workload, {})
        for name, mib in row.rss_mib.items():
            names[name] = None
            seen[name] = max(mib, seen.get(name, 0.0))
    cells = [
        [workload, *(number(seen[name]) if name in seen else "–" for name in names)]
        for workload, seen in most.items()
    ]
    return markdown(("memory, MiB", *names), cells, {0})


def markdown(header: Sequence[str], cells: Sequence[Sequence[str]], left: set[int]) -> str:
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]

    def line(texts: Sequence[str]) -> str:
        padded = (
            text.ljust(width) if place in left else text.rjust(width)
            for place, (text, width) in enumerate(zip(texts, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    rule = ["-" * width if place in left else "-" * (width - 1) + ":" for place, width in enumerate(widths)]
    return "\n".join(map(line, (header, rule, *cells)))


def document(options: dict[str, Any], rows: Sequence[Row], samples: Sequence[Sample]) -> dict[str, Any]:
    """For --json: rows with their ratios, and every single run."""
    by_key = {row.key: row for row in rows}
    plain = []
    for row in rows:
        fields = asdict(row) | {"ratios": ratios(row, by_key)}
        fields |= {name: _plain(fields[name]) for name in ("per_s", "servers_us", "latency_ms", "cpu_us")}
        plain.append(fields)
    return {
        "machine": machine(),
        "options": options,
        "rows": plain,
        "samples": [asdict(sample) for sample in samples],
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Spread):
        return value._asdict()
    return {name: _plain(part) for name, part in value.items()}


def machine() -> dict[str, Any]:
    """Where this was measured."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "compiled": "yes" if is_compiled() else "no",
        "load_average_1min": os.getloadavg()[0],
    }
