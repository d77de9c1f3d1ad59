"""What `ratel status` says of a status, without anybody to ask."""

from __future__ import annotations

from copy import deepcopy
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from common.commands.status_client import problems, status_url
from common.commands.status_view import duration, micros, render, size

FIGURES = {
    "answers_per_s": 12.5,
    "errors_per_s": 0.0,
    "p50_us": 900,
    "p90_us": 1500,
    "p99_us": 4_000_000,
    "total": 1234,
    "replays": 0,
    "outcomes": {"ok": 1234},
}
RATER = {
    "name": "one",
    "state": "working",
    "credit": 1024,
    "in_flight": 2,
    "busy": 0.25,
    "speed_per_s": 50_000,
    "tariff_epoch": 3,
    "seen_ms_ago": 120,
    "version": "0.1.0",
    "store": {
        "ok": True,
        "url": "redis://h:1/0",
        "used_memory": 1_000_000,
        "max_memory": 0,
        "round_trip_us": 200,
    },
}
NODES = [
    {"address": "h:1", "ok": True, "used_memory": 2048, "max_memory": 8192, "replicas": 3},
    {"address": "h:2", "ok": False, "used_memory": 0, "max_memory": 0, "replicas": 0},
]
CLUSTERED: dict[str, Any] = RATER | {"store": {**RATER["store"], "nodes": NODES}}  # type: ignore[dict-item]
WHOLE = CLUSTERED | {"store": CLUSTERED["store"] | {"nodes": [NODES[0], NODES[1] | {"ok": True}]}}
STATUS: dict[str, Any] = {
    "name": "host-1a2b",
    "version": "0.1.0",
    "uptime_s": 3700.5,
    "now": "2026-01-01T00:00:00.000Z",
    "draining": False,
    "window_s": 10,
    "methods": {"GetCost": FIGURES},
    "all": FIGURES,
    "queue": {
        "unanswered": 3,
        "waiting": 1,
        "bytes": 300,
        "room": 20_000,
        "overloaded": False,
        "turned_away": 7,
    },
    "raters": [RATER],
    "tariffs": {"vdf": 3},
}


def shown(status: Any) -> str:
    console = Console(file=StringIO(), width=160)
    console.print(render(status))
    text = console.file.getvalue()
    assert isinstance(text, str)
    return text


def test_all_is_shown() -> None:
    text = shown(STATUS)
    for part in ("host-1a2b", "1 h 1 min", "GetCost", "12.5", "900 µs", "1.5 ms", "4.0 s", "1,234"):
        assert part in text
    for part in (
        "one",
        "working",
        "2 of 1,024",
        "25%",
        "50,000",
        "0.1 s ago",
        "200 µs",
        "976.6 KiB",
        "ready",
    ):
        assert part in text
    assert text.rstrip().endswith("ready")


def test_the_nodes_of_a_cluster_of_stores_are_shown() -> None:
    lines = shown(STATUS | {"raters": [CLUSTERED, WHOLE]}).splitlines()
    [one] = [line.split() for line in lines if line.strip().startswith("h:1")]
    [two] = [line.split() for line in lines if line.strip().startswith("h:2")]
    assert one == ["h:1", "answers", "2", "KiB", "8", "KiB", "3"]
    assert two == ["h:2", "away", "–", "–", "0"]
    silent = shown(STATUS | {"raters": [CLUSTERED | {"state": "silent"}]})
    assert "h:2" not in silent, "its word is old"


def test_a_rater_that_says_nothing_of_itself_is_shown() -> None:
    status = deepcopy(STATUS)
    status["raters"] = [RATER | {"store": None, "version": "", "name": "[bold]x"}]
    assert "[bold]x" in shown(status)


def test_a_front_alone_is_shown() -> None:
    assert "no rater works" in shown(STATUS | {"raters": [], "tariffs": {}, "methods": {}})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, None),
        ({"draining": True}, "shutting down"),
        ({"raters": []}, "no rater works"),
        ({"raters": [RATER, RATER | {"name": "two", "state": "silent"}]}, "rater two is silent"),
        ({"raters": [RATER, RATER | {"state": "no store"}]}, "without a store"),
        ({"raters": [RATER, RATER | {"state": "no tariff"}]}, "without a tariff"),
        ({"raters": [RATER, RATER | {"state": "leaving"}]}, None),
        ({"raters": [RATER, RATER | {"tariff_epoch": 2}]}, "different tariffs"),
        ({"raters": [CLUSTERED]}, "the store's node h:2 does not answer: its accounts wait"),
        ({"raters": [CLUSTERED, WHOLE]}, "the store's node h:2 does not answer 1 of 2 raters"),
        ({"raters": [WHOLE]}, None),
        ({"queue": STATUS["queue"] | {"overloaded": True}}, "more is asked"),
    ],
)
def test_what_is_wrong_is_said(change: dict[str, Any], says: str | None) -> None:
    found = problems(STATUS | change)
    if says is None:
        assert found == []
    else:
        assert says in found[0]


def test_quantities_are_written_as_people_do() -> None:
    assert [micros(value) for value in (0, 999, 1000, 999_949, 2_500_000)] == [
        "–",
        "999 µs",
        "1.0 ms",
        "999.9 ms",
        "2.5 s",
    ]
    assert [size(value) for value in (0, 1, 1023, 1024, 5 << 30)] == ["–", "1 B", "1023 B", "1 KiB", "5 GiB"]
    assert [duration(value) for value in (0.5, 59, 60, 3600, 90_061)] == [
        "0 s",
        "59 s",
        "1 min",
        "1 h",
        "1 d 1 h",
    ]


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("http://h:8000", "http://h:8000/status.json"),
        ("https://h/", "https://h/status.json"),
        ("h:8000", "http://h:8000/status.json"),
        ("http://[::1]:8000", "http://[::1]:8000/status.json"),
    ],
)
def test_a_front_is_named_by_its_url(url: str, found: str) -> None:
    assert status_url(url) == found


@pytest.mark.parametrize("url", ["ftp://h", "http://", "http://h/x", "http://h?x=1", "http://h:port", ""])
def test_what_is_no_url_of_a_front_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        status_url(url)
