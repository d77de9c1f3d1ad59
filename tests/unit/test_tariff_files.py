"""Tariff files are read exactly, and every mistake in them is named with its place."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from common.times import parse_rfc3339
from rater.loader.files import read_paths
from rater.loader.report import Report
from rater.model import Account, Bucket, Destination, Interval, Threshold
from tests.unit.tariff_sample import (
    BUDGETS,
    DESTINATIONS,
    PLANS,
    RATES,
    errors_of,
    one_error,
    read,
    sample_files,
)

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = Path(os.environ.get("RATEL_REFERENCE_TARIFF", ROOT.parent / "shared" / "data" / "2012"))


# --- what comes out -----------------------------------------------------------------------------------


def test_a_valid_tariff_has_neither_errors_nor_warnings() -> None:
    _, report = read(sample_files())
    assert (report.errors, report.warnings) == ([], [])


def test_every_field_arrives_exactly() -> None:
    [load], _ = read(sample_files())
    tariff = load.tariff
    assert tariff is not None
    [rate] = tariff.rates
    assert (rate.tor, rate.subject, rate.prefix, rate.timezone) == (0, "rif", "0256", "Europe/Bucharest")
    assert [period.activation_us for period in rate.periods] == [
        parse_rfc3339("2012-01-01T00:00:00Z"),
        parse_rfc3339("2012-02-08T00:00:00Z"),
    ]
    assert rate.periods[0].intervals[0] == Interval(
        0, 0, (1, 2, 3, 4, 5), 0, 64_800, 0, 0, 200_000_000, 1_000_000, 0
    )
    assert rate.periods[0].intervals[2].week_days == (0, 6)
    assert rate.periods[1].intervals == (Interval(0, 0, (), 0, 86_400, 0, 0, 10_000_000_000, 60_000_000, 0),)
    assert tariff.destinations[0] == Destination("net", ("0723", "0724"))
    [plan] = tariff.plans
    assert plan.bonus.credit_micros == 100_000_000
    assert plan.bonus.bucket == Bucket("net", 5_000_000, 20, 0)
    assert plan.thresholds == (Threshold(100_000_000, 10_000_000), Threshold(500_000_000, 12_500_000))
    assert load.accounts == [
        Account(
            "rif",
            credit_micros=21_500_000,
            sms_micros=3_000_000,
            reset_day=10,
            plan="evening",
            min_credit_micros=-5_000_000,
            buckets=(Bucket("national", 10_000_000, 10, 10_000_000),),
        )
    ]


@pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"no reference tariff in {REFERENCE}")
def test_the_reference_tariff_loads_as_it_is() -> None:
    report = Report()
    contents = read_paths([REFERENCE], report, lambda done, total: None)
    assert (report.errors, report.warnings) == ([], [])
    assert len(contents.rates) == 4
    assert len(contents.destinations) == 4
    assert len(contents.plans) == 2
    assert [item.value.subject for item in contents.budgets] == ["minutosu", "broker"]


def test_the_sample_tariff_loads_without_a_warning() -> None:
    report = Report()
    contents = read_paths([ROOT / "deploy" / "sample-tariff"], report, lambda done, total: None)
    assert (report.errors, report.warnings) == ([], [])
    assert {item.value.subject for item in contents.budgets} == {"rif", "anna", "office"}


def test_field_names_match_in_any_case_and_exact_ones_win() -> None:
    [load], report = read({BUDGETS: [{"ID": "rif", "credit": 2, "Credit": 3, "SMSCREDIT": 4}]}, "vdf")
    assert load.accounts == [Account("rif", credit_micros=3_000_000, sms_micros=4_000_000)]
    assert report.warnings == [
        "user_budgets.json[0].credit (line 2): ignored, as Credit is given as well (said once for this file)"
    ]


def test_both_spellings_of_the_bonus_and_its_limit_are_read() -> None:
    new = {"Id": "a", "ReceivedCallSecondsLimit": 7, "ReceivedCallBonus": {"Credit": 1}}
    old = {"Id": "b", "ReceivedCallsSecondsLimit": 7, "RecivedCallBonus": {"Credit": 1}}
    [load], report = read({PLANS: [new, old]}, "vdf")
    assert report.errors == report.warnings == []
    assert load.tariff is not None
    a, b = load.tariff.plans
    assert (a.received_limit_us, a.bonus) == (b.received_limit_us, b.bonus) == (7_000_000, a.bonus)
    assert a.bonus.credit_micros == 1_000_000


def test_unknown_fields_are_ignored_and_said_once_for_each_file_with_the_likely_one() -> None:
    files = {BUDGETS: [{"Id": "a", "Kredit": 1, "note": "x"}, {"Id": "b", "Kredit": 1, "Credit": 0}]}
    _, report = read(files, "vdf")
    assert report.errors == []
    assert report.warnings == [
        "user_budgets.json[0].Kredit (line 2): unknown field of a user budget, ignored; "
        "did you mean Credit? (said once for this file)",
        "user_budgets.json[0].note (line 2): unknown field of a user budget, ignored "
        "(said once for this file)",
    ]


@pytest.mark.parametrize("hostile", ['a:b{c}"\n\\', "\U0001f4de {vdf:rif}", " ", "%7B", "\x00"])
def test_any_text_is_kept_exactly(hostile: str) -> None:
    files = sample_files()
    files[RATES][0] |= {"CstmId": hostile, "Subject": hostile, "DestinationPrefix": hostile}
    files[DESTINATIONS][0]["Id"] = hostile
    [load], report = read(files)
    assert report.errors == []
    assert load.tariff is not None
    assert (load.tenant, load.tariff.rates[0].subject, load.tariff.rates[0].prefix) == (hostile,) * 3
    assert load.tariff.destinations[0].id == hostile


def test_the_increment_of_a_rate_is_that_of_its_intervals_unless_they_have_their_own() -> None:
    files = sample_files()
    files[RATES][0]["RateIncrement"] = 60
    intervals = files[RATES][0]["ActivationPeriods"][0]["Intervals"]
    intervals[1]["RateIncrement"], intervals[2]["RateIncrement"] = 1.5, 0
    [load], _ = read(files)
    assert load.tariff is not None
    found = [interval.increment_us for interval in load.tariff.rates[0].periods[0].intervals]
    assert found == [60_000_000, 1_500_000, 0]


@pytest.mark.parametrize(
    ("unit", "unit_us"), [(0, 1_000_000), (None, 1_000_000), (0.5, 500_000), (60, 60_000_000)]
)
def test_a_billing_unit_of_zero_or_none_is_a_second(unit: float | None, unit_us: int) -> None:
    files = {RATES: _rate(BillingUnit=unit)}
    assert _only_interval(files).billing_unit_us == unit_us


@pytest.mark.parametrize(
    ("start", "end", "seconds"),
    [
        ("", "", (0, 86_400)),
        (None, None, (0, 86_400)),
        ("00:00:00", "23:59:59", (0, 86_400)),
        ("08:30:00", "24:00:00", (30_600, 86_400)),
        ("23:59:59", "", (86_399, 86_400)),
        ("", "00:00:01", (0, 1)),
    ],
)
def test_times_of_day(start: str | None, end: str | None, seconds: tuple[int, int]) -> None:
    interval = _only_interval({RATES: _rate(StartTime=start, EndTime=end)})
    assert (interval.start_s, interval.end_s) == seconds


def test_periods_and_thresholds_are_sorted() -> None:
    files = sample_files()
    files[RATES][0]["ActivationPeriods"].reverse()
    files[PLANS][0]["VolumeDiscountThresholds"].reverse()
    assert read(files)[0][0].tariff == read(sample_files())[0][0].tariff


def test_a_byte_order_mark_is_no_mistake() -> None:
    files = {DESTINATIONS: b"\xef\xbb\xbf" + json.dumps(sample_files()[DESTINATIONS]).encode()}
    assert errors_of(files, "vdf") == []


@pytest.mark.parametrize("number", ["1e2", "100.0", "1.00E+2", "10000e-2"])
def test_a_whole_number_may_be_written_in_other_ways(number: str) -> None:
    files = {BUDGETS: f'[{{"Id": "a", "Credit": {number}, "MinuteBuckets": [{_bucket(number)}]}}]'.encode()}
    [load], report = read(files, "vdf")
    assert report.errors == []
    assert load.accounts[0].credit_micros == 100_000_000
    assert load.accounts[0].buckets[0].priority == 100


# --- the kind of an object ----------------------------------------------------------------------------


def test_kinds_are_told_by_fields_whatever_the_file_is_called() -> None:
    files = sample_files()
    mixed = [each for name in (PLANS, BUDGETS, DESTINATIONS, RATES) for each in files[name]]
    assert read({"x.json": mixed})[0][0].tariff == read(files)[0][0].tariff


def test_the_file_name_decides_what_fields_leave_open() -> None:
    ambiguous = [{"Id": "a", "SmsCredit": 1}]
    [load], _ = read({"tariffplans.json": ambiguous}, "vdf")
    assert load.plans
    [load], _ = read({"UserBudgets.json": ambiguous}, "vdf")
    assert load.budgets


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (
            {"Id": "a", "SmsCredit": 1},
            "can not tell whether this is one of destinations, rates, tariff plans",
        ),
        ({}, "can not tell whether"),
        (
            {"Prefixes": [], "Credit": 1},
            "has fields of several kinds of objects (destinations, user budgets)",
        ),
        (5, "expected an object, found the number 5"),
        ([], "expected an object, found a list"),
        (None, "expected an object, found null"),
    ],
)
def test_an_object_whose_kind_is_unclear_is_an_error(value: Any, said: str) -> None:
    error = one_error({"x.json": [value]}, "vdf")
    assert error.startswith("x.json[0] (line 2): " + said)


# --- not JSON, not a list -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "x.json: is empty; expected a list of objects"),
        (b" \n ", "x.json: is empty"),
        (b'{"Id": "a"}', "x.json (line 1): expected a list of objects: [{…}, …], found an object"),
        (b"5", "x.json (line 1): expected a list of objects: [{…}, …], found a single value"),
        (
            b'[\n{"Id": "a"}\n{"Id": "b"}]',
            "x.json (line 3): not valid JSON: Expecting ',' delimiter at column 1",
        ),
        (b"[\n\n{'Id': 1}]", "x.json (line 3): not valid JSON: Expecting property name"),
        (b'[{"Id": "a"},\n]', "x.json (line "),  # Pythons differ in which line they name
        (b'[{"Id": "a",\n"Credit": NaN}]', "x.json (line 2): not valid JSON: JSON is malformed"),
        (b'[\n{"Id": "\xff"}]', "x.json[0] (line 2): is not UTF-8 text"),
        (
            b'[\n{"Id": "\\ud800", "Credit": 1}]',
            "x.json (line 2): not valid JSON: a text holds half of a surrogate pair",
        ),
        ("[]".encode("utf-16"), "x.json (line 1): is not UTF-8 text"),
        (b"[" * 100_000, "x.json: is nested too deep"),
        (b'[{"Id": "a", "Credit": 1, "Credit": 2}]', "x.json[0] (line 1): the field 'Credit' is given twice"),
        (
            b'[{"Id": "a", "Credit": ' + b"9" * 5000 + b"}]",
            "x.json[0] (line 1): can not be read: Exceeds the limit",
        ),
    ],
)
def test_a_file_that_is_not_a_list_of_objects_is_one_error(text: bytes, said: str) -> None:
    assert one_error({"x.json": text}, "vdf").startswith(said)


def test_a_file_truncated_anywhere_is_an_error_with_its_last_line() -> None:
    whole = json.dumps(sample_files()[BUDGETS], indent=1).encode()
    for size in range(1, len(whole)):
        part = whole[:size]
        line = part.rstrip().count(b"\n") + 1
        assert one_error({BUDGETS: part}, "vdf") == (
            f"user_budgets.json (line {line}): the file ends in the middle of its JSON: was it truncated?"
        )


def test_lines_are_those_on_which_objects_begin() -> None:
    text = b'\n[ {"Id": "a"\n,"Credit":1}\n\n,\n {"Id": 5,\n "Credit": 1}, {"Id": 6, "Credit": 1}]'
    assert errors_of({"x.json": text}, "vdf") == [
        "x.json[1].Id (line 6): expected a text in quotes, found the number 5",
        "x.json[2].Id (line 7): expected a text in quotes, found the number 6",
    ]


# --- files and folders ----------------------------------------------------------------------------------


def test_a_folder_is_its_json_files_by_name_and_no_others(tmp_path: Path) -> None:
    destinations = sample_files()[DESTINATIONS]
    (tmp_path / "b.json").write_text(json.dumps(destinations[:1]))
    (tmp_path / "a.JSON").write_text(json.dumps(destinations[1:]))
    (tmp_path / "c.txt").write_text("not looked at")
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "d.json").write_text("not looked at")
    report = Report()
    calls: list[tuple[int, int]] = []
    contents = read_paths([tmp_path, tmp_path / "b.json"], report, lambda *call: calls.append(call))
    assert report.errors == []
    assert [item.value.id for item in contents.destinations] == ["national", "net"]
    total = sum(path.stat().st_size for path in (tmp_path / "a.JSON", tmp_path / "b.json"))
    assert calls[-1] == (total, total)
    assert calls == sorted(calls)


def test_files_of_one_name_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.json").write_text("[5]")
    report = Report()
    read_paths([tmp_path / "one", tmp_path / "two"], report, lambda done, total: None)
    assert [error.split("[")[0] for error in report.errors] == [
        str(tmp_path / folder / "x.json") for folder in ("one", "two")
    ]


def test_paths_that_hold_nothing_are_errors(tmp_path: Path) -> None:
    report = Report()
    contents = read_paths([tmp_path, tmp_path / "gone.json"], report, lambda done, total: None)
    assert report.errors == [
        f"{tmp_path}: has no *.json files",
        "gone.json: can not be read: No such file or directory",
    ]
    assert not contents.complete


# --- helpers --------------------------------------------------------------------------------------------


def _rate(**interval: Any) -> list[Any]:
    rate = sample_files()[RATES][0]
    rate["ActivationPeriods"] = [
        {"ActivationTime": "2012-01-01T00:00:00Z", "Intervals": [{"Price": 1, **interval}]}
    ]
    return [rate]


def _only_interval(files: dict[str, Any]) -> Interval:
    [load], report = read(files)
    assert report.errors == []
    assert load.tariff is not None
    [interval] = load.tariff.rates[0].periods[0].intervals
    return interval


def _bucket(priority: str) -> str:
    return f'{{"Seconds": 1, "Priority": {priority}, "DestinationId": "net"}}'
