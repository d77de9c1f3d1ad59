"""What fuzzing has found, each as the smallest input that showed it."""

from __future__ import annotations

import tracemalloc

import pytest

from common import wire
from common.rpc.jsonrpc_replies import NotAReply, ReplyReader
from common.wire import MAX_FRAME_BYTES, WireError
from rater.loader import rates, strict_json
from rater.loader.check import MAX_OVERLAPS, find_overlaps
from rater.loader.rates import MAX_INTERVALS
from rater.model import Interval
from tests.fuzz.targets import TARGETS
from tests.unit.tariff_sample import RATES, read


@pytest.mark.parametrize("number", [b"1e99999999999999999999", b"-0.5E-99999999999999999999"])
def test_a_number_that_no_decimal_holds_is_not_a_reply(number: bytes) -> None:
    """It escaped from the client as decimal.InvalidOperation."""
    with pytest.raises(NotAReply):
        list(ReplyReader().feed(b'{"id":1,"result":' + number + b"}\n"))


def test_a_frame_of_empty_lists_is_refused_at_the_first_of_them() -> None:
    """All of them were made first: a gigabyte, and ten seconds during which nothing else ran."""
    count = MAX_FRAME_BYTES // 16
    frame = b"\x94\x01\xa1b\x01\xdd" + count.to_bytes(4, "big") + b"\x90" * count
    tracemalloc.start()
    with pytest.raises(WireError, match="WORK"):
        wire.decode(frame)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < len(frame)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(b"\x00\x00x", id="a number of chunks that is none"),
        pytest.param(b"\x00\x00" + b"9" * 5000, id="one of more digits than int takes"),
        pytest.param(b"\x01\x00?", id="no number of chunks"),
        pytest.param(b"\x00\x01\xff\xff", id="a field that is no UTF-8"),
        pytest.param(b"\x05\x04\xa1\xff", id="a text in a chunk that is no UTF-8"),
    ],
)
def test_a_damaged_version_is_unreadable_and_nothing_worse(damage: bytes) -> None:
    TARGETS["store"](damage)


def test_looking_for_the_field_given_twice_does_not_look_at_each_pair_of_fields() -> None:
    class Counting(str):
        __slots__ = ()
        compared = 0

        def __eq__(self, other: object) -> bool:
            Counting.compared += 1
            return super().__eq__(other)

        __hash__ = str.__hash__

    names = [Counting(number) for number in range(1000)]
    with pytest.raises(strict_json.DuplicateField, match="999"):
        strict_json._object([*((name, 0) for name in names), (Counting(999), 1)])
    assert Counting.compared < 10 * len(names)


def test_a_time_zone_misspelt_in_every_rate_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every rate took 14 ms: a price list of a hundred thousand was at it for half an hour."""
    looks: list[str] = []

    def look(name: str, *rest: object, **more: object) -> list[str]:
        looks.append(name)
        return ["Europe/Bucharest"]

    monkeypatch.setattr("difflib.get_close_matches", look)
    rates._timezone_hint.cache_clear()
    periods = [{"ActivationTime": "2012-01-01T00:00:00Z", "Intervals": [{"Price": 1}]}]
    one = {"CstmId": "vdf", "Subject": "rif", "Timezone": "Europe/Bukarest", "ActivationPeriods": periods}
    _, report = read({RATES: [{**one, "DestinationPrefix": str(number)} for number in range(50)]})
    rates._timezone_hint.cache_clear()
    assert report.error_count == 50
    assert all("did you mean Europe/Bucharest?" in error for error in report.errors)
    assert looks == ["Europe/Bukarest"]


def test_a_thousand_equal_intervals_are_not_half_a_million_warnings() -> None:
    """A file of 12 kB took four seconds to check, and 170 MB."""
    prices = [{"Price": 1}] * MAX_INTERVALS
    rate = {"CstmId": "vdf", "Subject": "rif", "DestinationPrefix": "1"}
    periods = [{"ActivationTime": "2012-01-01T00:00:00Z", "Intervals": prices}]
    _, report = read({RATES: [{**rate, "ActivationPeriods": periods}]})
    [warning] = report.warnings
    assert "Intervals[0] and Intervals[5] overlap every day 00:00–24:00 and many more, with" in warning
    interval = Interval(0, 0, (), 0, 86_400, 0, 0, 1, 1_000_000, 0)
    assert len(find_overlaps((interval,) * MAX_INTERVALS)) == MAX_OVERLAPS
