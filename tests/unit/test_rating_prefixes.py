"""The packed prefix tables against the definition: the longest stored prefix of a number, by looking."""

from __future__ import annotations

import random
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rater.model import ActivationPeriod, Destination, Interval, Rate, Tariff
from rater.rating import packed, prefixes
from rater.rating.packed import append_column, pack_tariff
from rater.rating.prefixes import MAX_DIGITS, PrefixTable, pack
from rater.rating.snapshot import CompiledTariff, compile_tariff

DAY_US = 86_400_000_000

# Few different characters, so that prefixes begin with one another; digits that `int` reads and that are
# none in a telephone's sense; more digits than a table holds.
DIGITS = st.text("019", max_size=MAX_DIGITS + 4)
ODD = st.text("09+a ٣_", max_size=6)
NUMBERS = st.one_of(DIGITS, ODD, st.builds(str.__add__, DIGITS, ODD))
TABLES = st.dictionaries(NUMBERS.filter(bool), st.integers(0, 3), max_size=40)


def table_of(entries: dict[str, int], nested: bool = False) -> tuple[PrefixTable, prefixes.Packed]:
    made = pack(entries, nested=nested)
    return PrefixTable(made.start_bits, made.words, made.starts, made.wide, dict(made.others)), made


def matches(entries: dict[str, int], number: str) -> list[tuple[str, int]]:
    """All that match, the longest first."""
    heads = (number[:length] for length in range(len(number), 0, -1))
    return [(head, entries[head]) for head in heads if head in entries]


@pytest.mark.source
@given(TABLES, st.lists(NUMBERS, max_size=20), st.booleans())
def test_the_longest_prefix_is_found(entries: dict[str, int], numbers: list[str], wide: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefixes, "MAX_LISTED", 0)
        if wide:
            patch.setattr(prefixes, "MAX_PACKED_ANSWERS", 0)
        table, made = table_of(entries)
    assert bool(table.wide) == wide
    for number in (*numbers, *entries, *(each + "0" for each in entries), *(each[:-1] for each in entries)):
        expected = next(iter(matches(entries, number)), None)
        other = next((number[:n] for n in table.other_lengths if number[:n] in table.others), None)
        if other is not None:
            assert expected == (other, table.others[other])
            continue
        answer = made.answers[table.find(number)]
        found = (number[: answer.length], answer.value) if answer.length else None
        assert found == expected


def test_the_longest_prefix_is_found_in_a_table_that_is_packed_for_its_size() -> None:
    """Nothing is replaced for it, so that it is tested compiled, too: words of long prefixes are large."""
    chosen = random.Random(7)
    entries: dict[str, int] = {}
    while len(entries) <= prefixes.MAX_LISTED:
        entries["".join(chosen.choices("0123456789", (9, *[1] * 8, 9), k=chosen.randint(1, 13)))] = len(
            entries
        )
    table, made = table_of(entries)
    assert not table.others
    for entry in entries:
        for number in (entry, entry + "0", entry + "99", entry[:-1]):
            answer = made.answers[table.find(number)]
            found = (number[: answer.length], answer.value) if answer.length else None
            assert found == next(iter(matches(entries, number)), None)


@given(TABLES, st.lists(NUMBERS, max_size=20))
def test_nested_answers_lead_to_all_shorter_prefixes(entries: dict[str, int], numbers: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefixes, "MAX_LISTED", 0)
        table, made = table_of(entries, nested=True)
    for number in (*numbers, *entries):
        found = [
            (number[:n], table.others[number[:n]]) for n in table.other_lengths if number[:n] in table.others
        ]
        index = table.find(number)
        while index:
            answer = made.answers[index]
            assert answer.parent < index
            found.append((number[: answer.length], answer.value))
            index = answer.parent
        assert list(dict.fromkeys(found)) == matches(entries, number)


@given(st.lists(st.integers(0, 2**64 - 1), max_size=50), st.sampled_from("QI"))
def test_columns_arrive_as_they_were(numbers: list[int], kind: str) -> None:
    column = array(kind, [number % 2 ** (8 * array(kind).itemsize) for number in numbers])
    arrived = array(kind)
    for piece in packed._pieces(column):
        append_column(arrived, piece)
    assert arrived == column


@pytest.mark.source
def test_columns_that_do_not_belong_together_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefixes, "MAX_LISTED", 0)
    table, made = table_of({"0256": 1, "1": 2})
    bits = made.start_bits
    for words, starts, wide in (
        (made.words[:-1], made.starts, made.wide),
        (made.words, made.starts[:-1], made.wide),
        (made.words[1:], made.starts, made.wide),
        (made.words, made.starts, array("I", [0])),
    ):
        with pytest.raises(ValueError, match="prefix table"):
            PrefixTable(bits, words, starts, wide, {})
    with pytest.raises(ValueError, match="starts by 63 bits"):
        PrefixTable(63, made.words, made.starts, made.wide, {})
    with pytest.raises(ValueError, match="has 7 bytes"):
        append_column(array("Q"), bytes(7))
    assert made.answers[table.find("02567")].value == 1


def rates(count: int) -> Tariff:
    """Each says something else."""
    return Tariff(
        "t",
        tuple(
            Rate(0, "*any", str(n), "UTC", (ActivationPeriod(0, (Interval(0, 0, (), 0, 1, 0, 0, n, 1, 0),)),))
            for n in range(count)
        ),
        (
            Destination("d", ("1", "12", "+1")),
            Destination("e", ("1", "12345678901234")),
            Destination("f", ()),
        ),
    )


def price_of(tariff: CompiledTariff, number: str) -> int:
    rate = tariff.find_rate("x", number)
    assert rate is not None
    return rate.plan.schedules[0].intervals[0].price_nanos


@given(TABLES, st.lists(NUMBERS, max_size=20))
def test_a_tariff_finds_the_same_by_either_kind_of_table(entries: dict[str, int], numbers: list[str]) -> None:
    periods = rates(4).rates
    tariff = Tariff(
        "t",
        tuple(Rate(0, "*any", prefix, "UTC", periods[value].periods) for prefix, value in entries.items()),
        tuple(
            Destination(f"d{value}", tuple(prefix for prefix in entries if entries[prefix] == value))
            for value in range(4)
        ),
    )
    listed = compile_tariff(tariff, DAY_US)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefixes, "MAX_LISTED", 0)
        packed_one = compile_tariff(tariff, DAY_US)
    for number in (*numbers, *entries):
        found = [each.find_rate("x", number) for each in (listed, packed_one)]
        expected = next(iter(matches(entries, number)), None)
        if expected is None:
            assert found == [None, None]
            assert listed.matching_destinations(number) == packed_one.matching_destinations(number) == ()
            continue
        for each in found:
            assert each is not None
            assert (each.prefix, each.plan.schedules[0].intervals[0].price_nanos) == expected
        precisions: dict[str, int] = {}
        for prefix, value in matches(entries, number):
            precisions.setdefault(f"d{value}", len(prefix))
        for tables in (listed, packed_one):
            assert tables.matching_destinations(number) == tuple(precisions.items())


@pytest.mark.source
@pytest.mark.parametrize("wide", [False, True])
def test_a_tariff_is_the_same_in_however_many_parts_it_comes(
    monkeypatch: pytest.MonkeyPatch, wide: bool
) -> None:
    if wide:
        monkeypatch.setattr(prefixes, "MAX_PACKED_ANSWERS", 0)
    monkeypatch.setattr(prefixes, "MAX_LISTED", 0)
    monkeypatch.setattr(packed, "ROWS_PER_PART", 7)
    monkeypatch.setattr(packed, "COLUMN_BYTES", 100)
    assert sum(1 for _ in pack_tariff(rates(1000))) > 250
    tariff = compile_tariff(rates(1000), DAY_US)
    for number in range(1000):
        assert price_of(tariff, str(number)) == number
        assert price_of(tariff, f"{number}+5") == number
    assert price_of(tariff, "12345") == 123
    assert tariff.matching_destinations("1234567890123456") == (("e", 14), ("d", 2))
    assert tariff.matching_destinations("13") == (("d", 1), ("e", 1))
    assert tariff.matching_destinations("+123") == (("d", 2),)
    assert tariff.matching_destinations("2") == ()


def test_a_tariff_that_is_packed_for_its_size_finds_its_rates() -> None:
    """As above, with nothing replaced."""
    count = prefixes.MAX_LISTED + 500
    tariff = compile_tariff(rates(count), DAY_US)
    for number in range(count):
        assert price_of(tariff, str(number)) == number
        assert price_of(tariff, f"{number}+5") == number
    assert price_of(tariff, "2499" + "9" * 16) == 2499
    assert price_of(tariff, "99999") == 999
    assert tariff.find_rate("x", "+1") is None
    assert tariff.matching_destinations("1234567890123456") == (("e", 14), ("d", 2))
