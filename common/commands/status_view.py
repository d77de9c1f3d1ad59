"""A front's status as tables for a terminal."""

from __future__ import annotations

from typing import Final

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from common.commands.status_client import Status, StoreNode, problems, store_nodes

COLOURS: Final = {"working": "green", "leaving": "yellow"}
UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")


def render(status: Status) -> RenderableType:
    nodes = store_nodes(status)
    tables = [_methods(status), _raters(status), *([_nodes(nodes)] if nodes else [])]
    return Group(_head(status), *tables, *_complaints(status))


def _head(status: Status) -> Text:
    queue = status["queue"]
    tariffs = ", ".join(f"{tenant} {version}" for tenant, version in list(status["tariffs"].items())[:8])
    text = Text(f"{status['name']}  version {status['version']}  up {duration(status['uptime_s'])}\n", "bold")
    text.append(
        f"requests here {queue['unanswered']}, waiting {queue['waiting']}, room {queue['room']}, "
        f"turned away {queue['turned_away']}\n",
        "not bold",
    )
    text.append(f"tariffs {tariffs or 'none'}", "not bold")
    return text


def _methods(status: Status) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("method")
    for name in ("answers/s", "errors/s", "half within", "90 %", "99 %", "total", "replays"):
        table.add_column(name, justify="right")
    rows = [*status["methods"].items(), ("all", status["all"])]
    for name, figures in rows:
        table.add_row(
            escape(name),
            f"{figures['answers_per_s']:,.1f}",
            f"{figures['errors_per_s']:,.1f}",
            *(micros(figures[key]) for key in ("p50_us", "p90_us", "p99_us")),
            f"{figures['total']:,}",
            f"{figures['replays']:,}",
            style="bold" if name == "all" else "",
        )
    return table


def _raters(status: Status) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("rater")
    table.add_column("state")
    for name in ("in flight", "busy", "requests/s", "tariff", "heard", "store", "memory"):
        table.add_column(name, justify="right")
    table.add_column("version")
    for rater in status["raters"]:
        store = rater["store"] or {}
        table.add_row(
            escape(rater["name"]),
            Text(rater["state"], COLOURS.get(rater["state"], "red")),
            f"{rater['in_flight']:,} of {rater['credit']:,}",
            f"{rater['busy']:.0%}",
            f"{rater['speed_per_s']:,}" if rater["speed_per_s"] else "–",
            str(rater["tariff_epoch"]),
            f"{rater['seen_ms_ago'] / 1000:.1f} s ago",
            micros(store["round_trip_us"]) if store.get("ok") else "away" if store else "–",
            size(store.get("used_memory", 0)),
            escape(rater["version"] or "–"),
        )
    if not status["raters"]:
        table.add_row("none")
    return table


def _nodes(nodes: list[StoreNode]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("store's node")
    table.add_column("state")
    for name in ("memory", "limit", "replicas"):
        table.add_column(name, justify="right")
    for node in nodes:
        table.add_row(
            escape(node.address),
            Text("away", "red") if node.away else Text("answers", "green"),
            size(node.used_memory),
            size(node.max_memory),
            "–" if node.away == node.raters else str(node.replicas),
        )
    return table


def _complaints(status: Status) -> list[Text]:
    found = problems(status)
    return [Text(f"! {problem}", "red") for problem in found] or [Text("ready", "green")]


def micros(value_us: int) -> str:
    if not value_us:
        return "–"
    if value_us < 1000:
        return f"{value_us} µs"
    if value_us < 1_000_000:
        return f"{value_us / 1000:.1f} ms"
    return f"{value_us / 1_000_000:.1f} s"


def size(value_bytes: int) -> str:
    if not value_bytes:
        return "–"
    power = min((value_bytes.bit_length() - 1) // 10, len(UNITS) - 1)
    return f"{value_bytes / 1024**power:.4g} {UNITS[power]}"


def duration(value_s: float) -> str:
    minutes, seconds = divmod(int(value_s), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s")]
    shown = [f"{count} {unit}" for count, unit in parts if count][:2]
    return " ".join(shown) or "0 s"
