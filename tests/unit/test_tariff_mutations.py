"""Whatever is done to a valid file, reading it ends in clean errors or in a usable tariff."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from common.money import LIMIT
from rater.accounts.opening import open_command
from rater.model import Tariff
from rater.rating.snapshot import compile_tariff
from rater.store.keys import account_keys
from tests.unit.tariff_sample import FakeActive, read, sample_files

BYTES = {name: json.dumps(value, indent=1).encode() for name, value in sample_files().items()}
DAY_US = 86_400_000_000
ODD_NUMBERS = [
    "1e999",
    "-1e999",
    "1e-999",
    "1E400",
    "9" * 400,
    "9007199254740993",
    "-0",
    "0.1e1",
    "-1",
    "2.5",
]
ODD_VALUES = st.one_of(
    st.sampled_from([None, True, False, [], {}, [[]], [{}], "", "24:00:00", "\ud83d\ude00", "x" * 300]),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=12).filter(lambda text: not any("\ud800" <= each <= "\udfff" for each in text)),
)


def must_be_clean(files: dict[str, Any]) -> None:
    loads, report = read(files, active=FakeActive({"vdf": Tariff("vdf")}))
    assert len(report.errors) <= report.error_count
    for line in (*report.errors, *report.warnings):
        assert line.isprintable(), line
        assert line.encode()
    if report.error_count:
        return
    for load in loads:
        # What was let through is what the store and the raters can use.
        if load.tariff is not None:
            packed = msgspec.msgpack.encode(load.tariff)
            assert msgspec.msgpack.decode(packed, type=Tariff) == load.tariff
            compile_tariff(load.tariff, DAY_US)
            for plan in load.tariff.plans:
                assert 0 <= plan.sms_micros <= LIMIT
        for account in load.accounts:
            open_command(account_keys(load.tenant, account.subject), account)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(BYTES)), st.data())
def test_bytes_replaced_inserted_or_cut_out_anywhere(name: str, data: st.DataObject) -> None:
    text = BYTES[name]
    start = data.draw(st.integers(0, len(text)), label="start")
    size = data.draw(st.integers(0, 20), label="size")
    new = data.draw(
        st.one_of(st.binary(max_size=6), st.sampled_from([each.encode() for each in ODD_NUMBERS])),
        label="new",
    )
    must_be_clean({**BYTES, name: text[:start] + new + text[start + size :]})


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(BYTES)), st.data())
def test_any_value_in_place_of_any_other(name: str, data: st.DataObject) -> None:
    files = sample_files()
    at: Any = files[name]
    while True:
        steps = sorted(at) if isinstance(at, dict) else range(len(at))
        step = data.draw(st.sampled_from(list(steps)))
        if not at[step] or not isinstance(at[step], dict | list) or data.draw(st.booleans()):
            break
        at = at[step]
    at[step] = data.draw(ODD_VALUES)
    must_be_clean(files)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(ODD_NUMBERS), st.data())
def test_any_odd_number_in_place_of_any_other(number: str, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(BYTES)))
    text = BYTES[name].decode()
    places = [index for index in range(1, len(text)) if text[index].isdigit() and text[index - 1] == " "]
    if places:
        place = data.draw(st.sampled_from(places))
        end = next(index for index in range(place, len(text)) if text[index] in ",\n")
        must_be_clean({**BYTES, name: (text[:place] + number + text[end:]).encode()})
