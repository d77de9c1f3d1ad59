"""`ratel tariff` on a real store: versions are listed, switched and compared, mistakes are told clearly."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from common.storage.embedded_store import EmbeddedStore
from common.storage.store import StoreConnection
from rater.model import ActivationPeriod, Bonus, Destination, Interval, Plan, Rate, Tariff
from rater.store.keys import RATERS, tariff_chunk_key, tariff_key
from rater.tariffs.commands import tariff as command
from rater.tariffs.store import Active, publish, read_active

METADATA = {"created": "2026-01-02T03:04:05Z", "sources": "rates.json"}


def rate(
    prefix: str, price: int = 1, subject: str = "*any", zone: str = "UTC", at: int = 0, tor: int = 0
) -> Rate:
    interval = Interval(0, 0, (), 0, 86_400, 0, 0, price * 1_000_000_000, 60_000_000, 0)
    return Rate(tor, subject, prefix, zone, (ActivationPeriod(at, (interval,)),))


def versions(store: StoreConnection, *tariffs: Tariff) -> None:
    for base, each in enumerate(tariffs):
        publish(store, [each], {each.tenant: base}, METADATA)


class Run:
    def __init__(self, url: str) -> None:
        self.url = url

    def __call__(self, *words: str, url: str = "") -> Result:
        result = CliRunner().invoke(command, [*words, "--store", url or self.url])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result


@pytest.fixture
def run(store: StoreConnection, store_server: EmbeddedStore) -> Run:
    return Run(store_server.url)


# --- list -----------------------------------------------------------------------------------------------


def test_versions_are_listed_with_the_active_one_marked(run: Run, store: StoreConnection) -> None:
    versions(store, Tariff("vdf", (rate("1"),)), Tariff("vdf", (rate("1"), rate("2")), (), (Plan("p"),)))
    publish(store, [Tariff("other", (rate("1"),))], {}, METADATA)
    assert run("list", "vdf").stdout.splitlines() == [
        "tenant 'vdf':",
        "     1  2026-01-02T03:04:05Z  1 rate, 0 destinations, 0 plans  from rates.json",
        "*    2  2026-01-02T03:04:05Z  2 rates, 0 destinations, 1 plan  from rates.json",
        "* is the active one",
    ]
    assert run("list").stdout.splitlines()[0] == "tenant 'other':"
    found = json.loads(run("list", "--json").stdout)
    assert sorted(found) == ["other", "vdf"]
    assert [(each["version"], each["active"], each["rates"]) for each in found["vdf"]] == [
        (1, False, 1),
        (2, True, 2),
    ]
    assert {each["state"] for each in found["vdf"]} == {"whole"}


def test_versions_that_can_not_be_used_are_said_to_be_so(run: Run, store: StoreConnection) -> None:
    versions(store, Tariff("vdf"), Tariff("vdf"), Tariff("vdf"))
    store.execute([("DEL", tariff_chunk_key("vdf", 1, 0)), ("HSET", tariff_key("vdf", 2), "format", "2")])
    lines = run("list", "vdf").stdout.splitlines()
    assert lines[1].endswith("(not whole: chunks are missing)")
    assert lines[2].endswith("(of format 2, which this release does not read)")
    assert lines[3].endswith("rates.json")


def test_an_active_version_from_long_ago_is_listed_too(run: Run, store: StoreConnection) -> None:
    versions(store, Tariff("vdf"))
    store.execute([("SET", "ratel:tariff:vdf:next", "500")])
    assert [each["version"] for each in json.loads(run("list", "vdf", "--json").stdout)["vdf"]] == [1]


def test_an_empty_store_has_no_versions(run: Run) -> None:
    assert run("list").stdout == "no tariff was loaded yet\n"
    result = run("list", "vdf")
    assert (result.exit_code, result.stderr) == (
        1,
        "error: there is no tariff of tenant 'vdf'; none was loaded yet\n",
    )


# --- activate -------------------------------------------------------------------------------------------


def test_going_back_and_forth(run: Run, store: StoreConnection) -> None:
    versions(store, Tariff("vdf", (rate("1"),)), Tariff("vdf", (rate("2"),)))
    result = run("activate", "vdf", "1")
    assert result.stdout.splitlines() == [
        "tenant 'vdf': version 1 is active, instead of 2",
        "no raters are running",
    ]
    assert read_active(store) == Active(3, {"vdf": 1})
    assert run("activate", "vdf", "1").stdout == "tenant 'vdf': version 1 is active already\n"
    assert read_active(store) == Active(3, {"vdf": 1})
    store.execute([("HSET", RATERS, "one", f"9 {time.time_ns() // 1_000_000 + 60_000}")])
    assert "picked up by 1 of 1 raters" in run("activate", "vdf", "2").stdout
    assert "picked up" not in run("activate", "vdf", "1", "--wait", "0").stdout


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("activate", "vdf", "9"), 1, "tenant 'vdf' has no version 9; those that are kept are 1, 2"),
        (("activate", "nobody", "1"), 1, "there is no tariff of tenant 'nobody'; there are those of 'vdf'"),
        (("diff", "vdf", "1", "9"), 1, "tenant 'vdf' has no version 9"),
        (("diff", "nobody", "1", "2"), 1, "there is no tariff of tenant 'nobody'"),
        (("activate", "vdf", "zero"), 2, "VERSION"),
        (("activate", "vdf", "0"), 2, "VERSION"),
        (("diff", "vdf", "1"), 2, "Missing argument"),
    ],
)
def test_mistakes_change_nothing_and_are_told(
    run: Run, store: StoreConnection, words: tuple[str, ...], code: int, said: str
) -> None:
    versions(store, Tariff("vdf"), Tariff("vdf"))
    result = run(*words)
    assert result.exit_code == code
    assert said in result.stderr
    assert read_active(store) == Active(2, {"vdf": 2})


def test_nobody_goes_back_to_a_damaged_version(run: Run, store: StoreConnection) -> None:
    versions(store, Tariff("vdf", (rate("1"),)), Tariff("vdf"))
    store.execute([("APPEND", tariff_chunk_key("vdf", 1, 0), "x")])
    for words in (("activate", "vdf", "1"), ("diff", "vdf", "1", "2")):
        result = run(*words)
        assert result.exit_code == 1
        assert "version 1 of the tariff of tenant 'vdf' can't be read: its SHA-256" in result.stderr
    assert read_active(store) == Active(2, {"vdf": 2})


def test_a_store_that_is_away_has_an_exit_code_of_its_own(run: Run, tmp_path: Path) -> None:
    for words in (("list",), ("activate", "vdf", "1"), ("diff", "vdf", "1", "2")):
        assert run(*words, url=f"unix://{tmp_path}/nowhere.sock").exit_code == 3
        assert run(*words, url="http://127.0.0.1").exit_code == 2


@pytest.mark.parametrize("words", [(), ("list",), ("activate",), ("diff",)])
def test_help_says_what_it_does(words: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(command, [*words, "--help"]).stdout
    assert ("Example" if words else "Exit codes") in shown


# --- diff -----------------------------------------------------------------------------------------------

BEFORE = Tariff(
    "vdf",
    (rate("1"), rate("2"), rate("3"), rate("4"), rate("1", subject="rif")),
    (Destination("net", ("07", "08")), Destination("gone", ("1",)), Destination("same", ("2",))),
    (Plan("p", sms_micros=1), Plan("q")),
)
AFTER = Tariff(
    "vdf",
    (
        rate("5"),
        rate("4", at=1_000_000),
        rate("3", zone="Europe/Bucharest", tor=7),
        rate("2", price=3),
        rate("1"),
    ),
    (Destination("net", ("07", "09")), Destination("same", ("2",)), Destination("new", ())),
    (Plan("p", sms_micros=2, bonus=Bonus(5)), Plan("r")),
)


def test_differences_are_counted_and_described(run: Run, store: StoreConnection) -> None:
    versions(store, BEFORE, AFTER)
    assert run("diff", "vdf", "1", "2").stdout.splitlines() == [
        "rates: 1 added, 1 removed, 3 changed, 1 the same",
        "  + '*any' '5': from 1970-01-01T00:00:00Z: 1/60 s",
        "  - 'rif' '1': from 1970-01-01T00:00:00Z: 1/60 s",
        "  ~ '*any' '4': period 1970-01-01T00:00:00Z, no period 1970-01-01T00:00:01Z"
        " → no period 1970-01-01T00:00:00Z, period 1970-01-01T00:00:01Z",
        "  ~ '*any' '3': TOR 0, Timezone UTC → TOR 7, Timezone Europe/Bucharest",
        "  ~ '*any' '2': [0] 1/60 s → [0] 3/60 s",
        "destinations: 1 added, 1 removed, 1 changed, 1 the same",
        "  + 'new': 0 prefixes",
        "  - 'gone': 1 prefixes",
        "  ~ 'net': 2 prefixes → 2 prefixes, with '09', without '08'",
        "plans: 1 added, 1 removed, 1 changed, 0 the same",
        "  + 'r': a plan",
        "  - 'q': a plan",
        "  ~ 'p': sms_micros 1, bonus [0, 0, 0, None] → sms_micros 2, bonus [5, 0, 0, None]",
    ]


def test_a_version_does_not_differ_from_itself(run: Run, store: StoreConnection) -> None:
    versions(store, BEFORE)
    assert run("diff", "vdf", "1", "1").stdout.splitlines() == [
        "rates: 0 added, 0 removed, 0 changed, 5 the same",
        "destinations: 0 added, 0 removed, 0 changed, 3 the same",
        "plans: 0 added, 0 removed, 0 changed, 2 the same",
    ]


def test_many_differences_are_counted_and_few_are_shown(run: Run, store: StoreConnection) -> None:
    many = Tariff("vdf", tuple(rate(str(number), price=number) for number in range(5000)))
    versions(store, many, Tariff("vdf", tuple(rate(str(number), price=number + 1) for number in range(5000))))
    lines = run("diff", "vdf", "1", "2", "--limit", "3").stdout.splitlines()
    assert lines[0] == "rates: 0 added, 0 removed, 5000 changed, 0 the same"
    assert lines[4] == "  ~ … and 4997 more"
    assert len(lines) == 7
    found: dict[str, Any] = json.loads(run("diff", "vdf", "1", "2", "--limit", "0", "--json").stdout)
    assert found["rates"] == {
        "added": 0, "removed": 0, "changed": 5000, "same": 0,
        "shown": {"added": [], "removed": [], "changed": []},
    }  # fmt: skip
    assert (found["tenant"], found["a"], found["b"]) == ("vdf", 1, 2)
