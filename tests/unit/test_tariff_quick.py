"""The short ways through a tariff file give what the careful ones give: values, places, findings."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rater.loader import pieces
from rater.loader.fields import Source
from rater.loader.files import read_text
from rater.loader.items import Contents
from rater.loader.quick import Quick
from rater.loader.report import Report
from tests.unit.tariff_sample import BUDGETS, DESTINATIONS, PLANS, RATES, sample_files
from tests.unit.test_tariff_mutations import ODD_VALUES

Found = tuple[list[Any], bool, list[str], list[str], int, int]

SAMPLE = sample_files()
RATE, BUDGET = SAMPLE[RATES][0], SAMPLE[BUDGETS][0]
FIELDS = sorted({*RATE, *BUDGET, "RateIncrement", "CstmId", "Traffic", "credit", "Prefixes", "note"})
PLAIN_VALUES = st.sampled_from(
    [0, 1, 2.5, 1e2, -1, "", "x", "UTC", "postpaid", [], 31, 9007199254.740991, 0.0000001, 1e-7, 'a"b', "é"]
)
LAYOUTS: list[dict[str, Any]] = [{}, {"indent": 1}, {"separators": (",", ":")}, {"ensure_ascii": False}]


def everything(data: bytes, *, quick: bool, piece_bytes: int = 1 << 20, name: str = "x.json") -> Found:
    report, contents = Report(), Contents()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "PIECE_BYTES", piece_bytes)
        if not quick:
            patch.setattr(Quick, "rate", lambda self, text: None)
            patch.setattr(Quick, "budget", lambda self, text: None)
        read_text(data, Source(name, report), contents, lambda done: None)
    kinds = (contents.rates, contents.destinations, contents.plans, contents.budgets)
    items = [(item.tenant, item.value, item.place) for items in kinds for item in items]
    return items, contents.complete, report.errors, report.warnings, report.error_count, report.warning_count


@st.composite
def changed_objects(draw: st.DrawFn) -> dict[str, Any]:
    found = dict(draw(st.sampled_from([RATE, BUDGET, *SAMPLE[PLANS], *SAMPLE[DESTINATIONS]])))
    for _ in range(draw(st.integers(0, 3))):
        field = draw(st.sampled_from(FIELDS))
        if draw(st.booleans()):
            found.pop(field, None)
        else:
            found[field] = draw(st.one_of(PLAIN_VALUES, ODD_VALUES))
    return found


@settings(max_examples=400, deadline=None)
@given(st.lists(changed_objects(), max_size=4), st.sampled_from(LAYOUTS))
def test_the_short_way_makes_of_an_object_what_the_careful_way_makes(
    objects: list[dict[str, Any]], layout: dict[str, Any]
) -> None:
    data = json.dumps(objects, **layout).encode(errors="surrogatepass")
    assert everything(data, quick=True) == everything(data, quick=False)


@pytest.mark.parametrize("name", [RATES, BUDGETS])
def test_plain_objects_go_the_short_way(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    carefully = everything(json.dumps(SAMPLE[name]).encode(errors="surrogatepass"), quick=False)
    monkeypatch.setattr("rater.loader.files._decode", None)  # as the careful way begins
    assert everything(json.dumps(SAMPLE[name]).encode(errors="surrogatepass"), quick=True) == carefully


@pytest.mark.parametrize("field", ["CstmId", "TOR", "ActivationPeriods"])
def test_a_field_that_is_given_twice_is_found(field: str) -> None:
    text = json.dumps([RATE])
    data = f"{text[:2]}{json.dumps(field)}: {json.dumps(RATE[field])}, {text[2:]}".encode(
        errors="surrogatepass"
    )
    [error] = everything(data, quick=True)[2]
    assert f"the field '{field}' is given twice" in error


def test_what_was_wrong_once_is_reported_each_time() -> None:
    wrong = {**RATE, "ActivationPeriods": [{"ActivationTime": "2012-01-01T00:00:00Z", "Intervals": [{}]}]}
    assert (
        len(everything(json.dumps([wrong, wrong, wrong]).encode(errors="surrogatepass"), quick=True)[2]) == 3
    )


@settings(max_examples=300, deadline=None)
@given(st.lists(changed_objects(), max_size=8), st.sampled_from(LAYOUTS), st.integers(1, 3000), st.booleans())
def test_a_file_is_the_same_in_pieces(
    objects: list[dict[str, Any]], layout: dict[str, Any], piece_bytes: int, has_bom: bool
) -> None:
    data = json.dumps(objects, **layout).encode(errors="surrogatepass")
    data = pieces.BOM + data if has_bom else data
    assert everything(data, quick=True, piece_bytes=piece_bytes) == everything(data, quick=True)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(changed_objects(), min_size=1, max_size=5),
    st.sampled_from(LAYOUTS),
    st.integers(1, 1000),
    st.data(),
)
def test_a_damaged_file_is_the_same_in_pieces(
    objects: list[dict[str, Any]], layout: dict[str, Any], piece_bytes: int, data: st.DataObject
) -> None:
    whole = json.dumps(objects, **layout).encode(errors="surrogatepass")
    start = data.draw(st.integers(0, len(whole)))
    size = data.draw(st.integers(0, 20))
    new = data.draw(
        st.one_of(st.binary(max_size=4), st.sampled_from([b"},{", b'"', b"]", b"[", b"\\", b","]))
    )
    damaged = whole[:start] + new + whole[start + size :]
    found = everything(damaged, quick=True, piece_bytes=piece_bytes)
    assert found == everything(damaged, quick=False)


def test_large_files_do_come_in_pieces() -> None:
    rates = [{**RATE, "DestinationPrefix": str(number)} for number in range(500)]
    for layout in LAYOUTS:
        data = json.dumps(rates, **layout).encode(errors="surrogatepass")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pieces, "PIECE_BYTES", 5000)
            import io

            found = list(pieces.pieces(io.BytesIO(data)))
        assert max(len(piece.data) for piece in found) < 11_000
        assert sum(len(piece.elements) for piece in found) == 500
        assert found[-1].offset == len(data)
