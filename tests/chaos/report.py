"""The tables of a chaos run, plain text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import median

from tests.chaos.run import SeedResult

HEAD = (
    "seed",
    "store",
    "front",
    "acknowledged",
    "refused",
    "retried",
    "keyless open",
    "replays",
    "lost",
    "doubled",
    "wrong",
    "unresolved",
    "faults",
    "seconds",
    "verdict",
)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need; the first row is the head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    lines.insert(1, "|-" + "-|-".join("-" * width for width in widths) + "-|")
    return "\n".join(lines)


def seeds_table(results: Sequence[SeedResult]) -> str:
    rows: list[Sequence[str]] = [HEAD]
    rows += [_row(str(result.seed), result.kind, result.front, [result]) for result in results]
    rows.append(_row("all", "", "", results))
    return table(rows)


def _row(seed: str, kind: str, front: str, results: Sequence[SeedResult]) -> list[str]:
    def total(name: str) -> str:
        return f"{sum(getattr(result, name) for result in results):,}"

    figures = ("acknowledged", "refused", "open_at_first", "keyless_open", "replays")
    verdicts = sorted({verdict for result in results for verdict in result.verdicts})
    return [
        seed,
        kind,
        front,
        *map(total, (*figures, "lost", "doubled", "wrong", "unresolved")),
        f"{sum(len(result.gaps) for result in results)}",
        f"{sum(result.seconds for result in results):.0f}",
        ", ".join(verdicts) or "clean",
    ]


def faults_table(results: Sequence[SeedResult]) -> str:
    gaps: dict[str, list[float]] = defaultdict(list)
    for result in results:
        for gap in result.gaps:
            gaps[gap.fault].append(gap.longest_s)
    head = ("fault", "times", "longest time without an acknowledgement, the fault included: median", "max")
    rows: list[Sequence[str]] = [head]
    rows += [(name, str(len(s)), f"{median(s):.2f} s", f"{max(s):.2f} s") for name, s in sorted(gaps.items())]
    return table(rows)
