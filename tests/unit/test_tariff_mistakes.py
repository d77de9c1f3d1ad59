"""Wrong values in tariff files: each is named with its place, what was found and what was expected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rater.loader.report import MAX_SHOWN
from tests.unit.tariff_sample import (
    BUDGETS,
    DESTINATIONS,
    INTERVAL,
    PLANS,
    RATES,
    errors_of,
    one_error,
    read,
    sample_files,
)


def set_at(path: str, value: Any) -> Callable[[Any], None]:
    """A change of one value in a file's list: `0.ActivationPeriods.0.Intervals` (delete with `...`)."""

    def change(file: Any) -> None:
        *steps, last = (int(step) if step.isdecimal() else step for step in path.split("."))
        for step in steps:
            file = file[step]
        if value is ...:
            del file[last]
        else:
            file[last] = value

    return change


PERIOD = "0.ActivationPeriods.0"
FIRST = f"{PERIOD}.Intervals.0"
IN_FIRST = "activation_periods.json[0].ActivationPeriods[0].Intervals[0]"
IN_BUDGET = "user_budgets.json[0]"
IN_PLAN = "tariff_plans.json[0]"

MISTAKES = [
    # names
    (RATES, "0.CstmId", ..., "activation_periods.json[0].CstmId (line 2): missing; a rate needs one"),
    (RATES, "0.Subject", ..., "[0].Subject (line 2): missing"),
    (RATES, "0.DestinationPrefix", None, "[0].DestinationPrefix (line 2): missing"),
    (RATES, "0.DestinationPrefix", "", "[0].DestinationPrefix (line 2): is empty"),
    (
        RATES,
        "0.DestinationPrefix",
        256,
        ".DestinationPrefix (line 2): expected a text in quotes, found the number 256",
    ),
    (RATES, "0.Subject", "s" * 257, "Subject (line 2): has 257 characters, the most allowed is 256"),
    (
        RATES,
        "0.TOR",
        "0",
        "TOR (line 2): expected a whole number from -2147483648 to 2147483647, found the text '0'",
    ),
    (DESTINATIONS, "0.Id", ..., "destinations.json[0].Id (line 2): missing; a destination needs one"),
    (DESTINATIONS, "1.Prefixes", ..., "destinations.json[1].Prefixes (line 3): missing"),
    (
        DESTINATIONS,
        "1.Prefixes",
        "07",
        "destinations.json[1].Prefixes (line 3): expected a list, found the text '07'",
    ),
    (
        DESTINATIONS,
        "1.Prefixes.0",
        "",
        "Prefixes (line 3): expected texts of 1 to 256 characters, found the text ''",
    ),
    (
        DESTINATIONS,
        "1.Prefixes.0",
        7,
        "Prefixes (line 3): expected texts of 1 to 256 characters, found the number 7",
    ),
    (PLANS, "0.Id", "", "tariff_plans.json[0].Id (line 2): is empty"),
    (BUDGETS, "0.Id", ..., "user_budgets.json[0].Id (line 2): missing; a user budget needs one"),
    (BUDGETS, "0.CstmId", "t" * 257, "CstmId (line 2): has 257 characters"),
    # periods
    (RATES, "0.ActivationPeriods", [], "ActivationPeriods (line 2): is empty; a rate needs at least one"),
    (RATES, "0.ActivationPeriods", {}, "ActivationPeriods (line 2): expected a list, found an object"),
    (
        RATES,
        "0.ActivationPeriods.1",
        5,
        "ActivationPeriods[1] (line 2): expected an activation period, found the number 5",
    ),
    (RATES, f"{PERIOD}.ActivationTime", ..., "ActivationPeriods[0].ActivationTime (line 2): missing"),
    (
        RATES,
        f"{PERIOD}.ActivationTime",
        "2012-01-01",
        "ActivationTime (line 2): expected an RFC 3339 time such as",
    ),
    (RATES, f"{PERIOD}.ActivationTime", "2012-02-30T00:00:00Z", "ActivationTime (line 2): no such time"),
    (RATES, f"{PERIOD}.ActivationTime", 1, "ActivationTime (line 2): expected an RFC 3339 time in quotes"),
    (
        RATES,
        f"{PERIOD}.ActivationTime",
        "2012-02-08T02:00:00+02:00",
        "ActivationPeriods[1].ActivationTime (line 2): 2012-02-08T00:00:00Z is the time of another period",
    ),
    (RATES, f"{PERIOD}.Intervals", ..., "ActivationPeriods[0].Intervals (line 2): missing"),
    (
        RATES,
        f"{PERIOD}.Intervals",
        [INTERVAL] * 1001,
        "Intervals (line 2): has 1001 entries, the most allowed is 1000",
    ),
    (
        RATES,
        "0.Timezone",
        "Europe/Bukarest",
        "Timezone (line 2): expected an IANA name such as Europe/Bucharest",
    ),
    (RATES, "0.Timezone", "../../etc/passwd", "Timezone (line 2): expected an IANA name"),
    (RATES, "0.Timezone", "Europe", "Timezone (line 2): expected an IANA name"),
    (RATES, "0.RateIncrement", -1, "[0].RateIncrement (line 2): expected a number of 0 or more (seconds)"),
    # intervals
    (RATES, f"{FIRST}.Month", 13, f"{IN_FIRST}.Month (line 2): expected a whole number from 0 to 12"),
    (RATES, f"{FIRST}.Month", 1.5, f"{IN_FIRST}.Month (line 2): expected a whole number from 0 to 12"),
    (RATES, f"{FIRST}.Month", True, "Month (line 2): expected a whole number from 0 to 12, found true"),
    (RATES, f"{FIRST}.MonthDay", 32, f"{IN_FIRST}.MonthDay (line 2): expected a whole number from 0 to 31"),
    (
        RATES,
        f"{FIRST}.WeekDays",
        [7],
        "WeekDays (line 2): expected whole numbers from 0 (Sunday) to 6 (Saturday)",
    ),
    (RATES, f"{FIRST}.WeekDays", 1, f"{IN_FIRST}.WeekDays (line 2): expected a list, found the number 1"),
    (
        RATES,
        f"{FIRST}.EndTime",
        "25:00:00",
        f"{IN_FIRST}.EndTime (line 2): expected a time of day as HH:MM:SS, found the text '25:00:00'",
    ),
    (RATES, f"{FIRST}.EndTime", "12:60:00", "EndTime (line 2): expected a time of day as HH:MM:SS"),
    (RATES, f"{FIRST}.EndTime", "12:00", "EndTime (line 2): expected a time of day as HH:MM:SS"),
    (RATES, f"{FIRST}.EndTime", "24:00:01", "EndTime (line 2): expected a time of day as HH:MM:SS"),
    (RATES, f"{FIRST}.EndTime", "１２:00:00", "EndTime (line 2): expected a time of day as HH:MM:SS"),
    (
        RATES,
        f"{FIRST}.StartTime",
        8,
        "StartTime (line 2): expected a time of day as HH:MM:SS, found the number 8",
    ),
    (RATES, f"{FIRST}.StartTime", "18:00:00", "EndTime (line 2): 18:00:00 is not after StartTime 18:00:00"),
    (
        RATES,
        f"{FIRST}.EndTime",
        "00:00:00",
        "00:00:00 is not after StartTime 00:00:00; the end of the day is 24:00:00",
    ),
    (
        RATES,
        f"{FIRST}.StartTime",
        "22:00:00",
        "EndTime (line 2): 18:00:00 is not after StartTime 22:00:00; an interval can not wrap over midnight: "
        "write two, 22:00:00 to 24:00:00 and 00:00:00 to 18:00:00",
    ),
    (RATES, f"{FIRST}.Price", ..., f"{IN_FIRST}.Price (line 2): missing; an interval needs one"),
    (RATES, f"{FIRST}.Price", -1, f"{IN_FIRST}.Price (line 2): expected a number of 0 or more (cents)"),
    (RATES, f"{FIRST}.Price", 1e-10, "Price (line 2): more than 9 decimals, found the number 1e-10"),
    (RATES, f"{FIRST}.Price", 1e999, "not valid JSON"),
    (RATES, f"{FIRST}.Price", 10**9, "Price (line 2): outside ±"),
    (RATES, f"{FIRST}.Price", "0.1", "Price (line 2): expected a number (cents), found the text '0.1'"),
    (
        RATES,
        f"{FIRST}.ConnectFee",
        -0.5,
        "ConnectFee (line 2): expected a number of 0 or more (cents), found the number -0.5",
    ),
    (RATES, f"{FIRST}.BillingUnit", -60, "BillingUnit (line 2): expected a number of 0 or more (seconds)"),
    (
        RATES,
        f"{FIRST}.RateIncrement",
        -1,
        f"{IN_FIRST}.RateIncrement (line 2): expected a number of 0 or more",
    ),
    (RATES, f"{FIRST}.Ponder", "1", "Ponder (line 2): expected a number, found the text '1'"),
    # plans and budgets
    (
        PLANS,
        "0.MinuteBuckets",
        [{}] * 65,
        f"{IN_PLAN}.MinuteBuckets (line 2): has 65 entries, the most allowed is 64",
    ),
    (PLANS, "0.MinuteBuckets.0.DestinationId", ..., "MinuteBuckets[0].DestinationId (line 2): missing"),
    (
        PLANS,
        "0.MinuteBuckets.0.Seconds",
        ...,
        "MinuteBuckets[0].Seconds (line 2): missing; a minute bucket needs one",
    ),
    (
        PLANS,
        "0.MinuteBuckets.0.Seconds",
        -1,
        "MinuteBuckets[0].Seconds (line 2): expected a number of 0 or more",
    ),
    (PLANS, "0.MinuteBuckets.0.Price", -1, "MinuteBuckets[0].Price (line 2): expected a number of 0 or more"),
    (
        PLANS,
        "0.MinuteBuckets.0.Priority",
        2**31,
        "Priority (line 2): expected a whole number from -2147483648",
    ),
    (
        PLANS,
        "0.RecivedCallBonus",
        5,
        f"{IN_PLAN}.RecivedCallBonus (line 2): expected a received-call bonus as an object",
    ),
    (
        PLANS,
        "0.RecivedCallBonus.MinuteBucket.Seconds",
        "5",
        "RecivedCallBonus.MinuteBucket.Seconds (line 2): expected a number",
    ),
    (
        PLANS,
        "0.VolumeDiscountThresholds.1.Discount",
        101,
        "Discount (line 2): expected a number from 0 to 100 (per cent)",
    ),
    (
        PLANS,
        "0.VolumeDiscountThresholds.1.Discount",
        -1,
        "Discount (line 2): expected a number from 0 to 100 (per cent)",
    ),
    (
        PLANS,
        "0.VolumeDiscountThresholds.1.Volume",
        100,
        "Volume (line 2): another threshold of this plan begins at the number 100",
    ),
    (
        PLANS,
        "0.VolumeDiscountThresholds.1.Volume",
        ...,
        "VolumeDiscountThresholds[1].Volume (line 2): missing",
    ),
    (
        BUDGETS,
        "0.Type",
        "free",
        f"{IN_BUDGET}.Type (line 2): expected 'prepaid' or 'postpaid', found the text 'free'",
    ),
    (BUDGETS, "0.Credit", 2**53, f"{IN_BUDGET}.Credit (line 2): outside ±9007199254.740991"),
    (BUDGETS, "0.Credit", 0.0000001, f"{IN_BUDGET}.Credit (line 2): more than 6 decimals"),
    (BUDGETS, "0.SmsCredit", -1, f"{IN_BUDGET}.SmsCredit (line 2): expected a number of 0 or more"),
    (
        BUDGETS,
        "0.ResetDayOfTheMonth",
        32,
        "ResetDayOfTheMonth (line 2): expected a whole number from 0 to 31",
    ),
    (BUDGETS, "0.MinuteBuckets", [{}] * 65, "MinuteBuckets (line 2): has 65 entries, the most allowed is 64"),
    (
        BUDGETS,
        "0.TariffPlanId",
        "morning",
        f"{IN_BUDGET} (line 2): budget 'rif': TariffPlanId 'morning' is not in the plans of this load",
    ),
]


@pytest.mark.parametrize(("file", "path", "value", "said"), MISTAKES)
def test_a_mistake_is_named_with_its_place_and_what_was_expected(
    file: str, path: str, value: Any, said: str
) -> None:
    files = sample_files()
    set_at(path, value)(files[file])
    assert said in errors_of(files)[0]


def test_a_wrong_time_zone_comes_with_the_likely_one() -> None:
    files = sample_files()
    files[RATES][0]["Timezone"] = "Europe/Bukarest"
    assert "did you mean Europe/Bucharest?" in one_error(files)


def test_all_mistakes_are_found_in_one_pass() -> None:
    files = sample_files()
    files[RATES][0]["Subject"] = ""
    set_at(f"{FIRST}.Price", -1)(files[RATES])
    set_at(f"{FIRST}.EndTime", "9")(files[RATES])
    files[BUDGETS][0]["Type"] = 1
    files[PLANS] = b"[{"
    assert len(errors_of(files)) == 5


def test_findings_are_counted_and_only_the_first_are_kept() -> None:
    _, report = read({DESTINATIONS: [{"Id": 5, "Prefixes": []}] * 250}, "vdf")
    assert report.error_count >= 250
    assert len(report.errors) == MAX_SHOWN
    assert report.warning_count == 250
    assert len(report.warnings) == MAX_SHOWN


def test_what_was_found_is_shown_shortened_and_escaped() -> None:
    error = one_error({BUDGETS: [{"Id": "a", "Type": "\x1b[31m" + "x" * 500}]}, "vdf")
    assert "\\x1b[31mxxx" in error
    assert "\x1b" not in error
    assert len(error) < 200
