"""The benchmark's requests: all different, right in form, and their right results known."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime
from urllib.parse import parse_qs, urlsplit

import pytest

from common.methods import BY_HTTP_NAME, BY_NAME
from loadtests.bench.requests import (
    DEBITS,
    WORKLOADS,
    Pool,
    Request,
    encode_http,
    encode_rpc,
    fault,
    make_requests,
    number_of,
    place_of,
    subject,
)
from loadtests.bench.tariff import World, cost, peak_price, prefix, tariff

WORLD = World(accounts=1000, prefixes=50)
NOBODY = dict[bytes, float]().keys()
MONDAY, SATURDAY = 0, 5
NOON_S, EVENING_S = 12 * 3600, 20 * 3600


def test_a_call_in_the_peak_costs_twice_as_much_as_one_at_the_weekend() -> None:
    assert cost(3, MONDAY, NOON_S, 10) == 10 * peak_price(3)
    assert cost(3, SATURDAY, NOON_S, 10) == 5 * peak_price(3)
    assert cost(3, MONDAY, EVENING_S, 10) == 5 * peak_price(3)


def test_a_call_over_the_border_is_priced_in_two_parts() -> None:
    assert cost(3, MONDAY, EVENING_S - 4, 10) == 4 * peak_price(3) + 6 * peak_price(3) // 2
    assert cost(3, MONDAY, 8 * 3600 - 4, 10) == 6 * peak_price(3) + 4 * peak_price(3) // 2


def test_the_tariff_has_every_prefix_once_with_its_price() -> None:
    rates = tariff(WORLD)["activation_periods.json"]
    assert [rate["DestinationPrefix"] for rate in rates] == [prefix(number) for number in range(50)]
    assert len({prefix(number) for number in range(50)}) == 50
    peak = rates[7]["ActivationPeriods"][0]["Intervals"][1]
    assert peak["Price"] * 1000 == pytest.approx(peak_price(7) * 60)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_requests_are_calls_of_known_methods_that_the_tariff_can_answer(workload: str) -> None:
    prefixes = {prefix(number) for number in range(WORLD.prefixes)}
    for request in make_requests(workload, 200, WORLD):
        method, descriptor = BY_NAME[request.method], request.descriptor
        assert method.mutates == (request.method in DEBITS) == (request.expected is None)
        assert method.needs_amount == ("Amount" in descriptor)
        assert method.needs_times == ("TimeStart" in descriptor)
        destination = str(descriptor["DestinationPrefix"])
        assert method.mutates or any(destination.startswith(known) for known in prefixes)
        if method.needs_times:
            begin, end = (datetime.fromisoformat(str(descriptor[name])) for name in ("TimeStart", "TimeEnd"))
            assert begin < end


def test_the_longest_prefix_is_the_one_whose_price_is_expected() -> None:
    prefixes = sorted((prefix(number) for number in range(WORLD.prefixes)), key=len, reverse=True)
    for request in make_requests("GetCost", 500, WORLD):
        destination = str(request.descriptor["DestinationPrefix"])
        longest = next(known for known in prefixes if destination.startswith(known))
        number = next(number for number in range(WORLD.prefixes) if prefix(number) == longest)
        begin, end = (
            datetime.fromisoformat(str(request.descriptor[name])) for name in ("TimeStart", "TimeEnd")
        )
        seconds = (end - begin).seconds
        assert request.expected in range(peak_price(number) * seconds // 2, peak_price(number) * seconds + 1)


def test_hot_is_one_account_and_spread_is_many() -> None:
    hot, many = (
        {request.descriptor["Subject"] for request in make_requests(f"DebitSMS {kind}", 300, WORLD)}
        for kind in ("hot", "spread")
    )
    assert hot == {subject(0)}
    assert len(many) > 200


def test_requests_differ_from_each_other_and_from_round_to_round() -> None:
    first, again, second = (make_requests("GetCost", 300, WORLD, seed) for seed in (1, 1, 2))
    assert first == again
    assert not {json.dumps(request.descriptor) for request in first} & {
        json.dumps(request.descriptor) for request in second
    }
    assert len({json.dumps(request.descriptor) for request in first}) == 300


def test_seven_of_ten_in_the_mix_are_reads() -> None:
    methods = Counter(request.method for request in make_requests("mix", 5000, WORLD))
    assert (methods["GetCost"] + methods["GetMaxSessionTime"]) / 5000 == pytest.approx(0.7, abs=0.03)
    assert set(methods) == {"GetCost", "GetMaxSessionTime", *DEBITS}


def test_a_message_is_json_rpc_with_its_number_where_the_client_looks() -> None:
    [request] = make_requests("GetMaxSessionTime", 1, WORLD)
    message = json.loads(encode_rpc(request, number_of(7), "key"))
    assert place_of(str(message["id"]).encode()) == 7
    assert message["method"] == "Responder.GetMaxSessionTime"
    assert message["params"] == [request.descriptor | {"RequestId": "key"}]


def test_an_http_request_says_the_same() -> None:
    [request] = make_requests("GetCost", 1, World(1, 1))
    head = encode_http(request, b"", "key").decode().split("\r\n")
    target = urlsplit(head[0].split()[1])
    assert BY_HTTP_NAME[target.path[1:]].name == "GetCost"
    query = parse_qs(target.query)
    assert query["subj"] == [request.descriptor["Subject"]]
    assert query["start"] == [request.descriptor["TimeStart"]]
    assert "Idempotency-Key: key" in head


def pool(count: int, key: str = "") -> Pool:
    return Pool([Request("DebitSMS", {"Subject": f"s{place}"}) for place in range(count)], encode_rpc, key)


def ids(data: bytes) -> list[int]:
    return [place_of(str(json.loads(line)["id"]).encode()) for line in data.splitlines()]


def test_a_pool_begins_again_at_its_end() -> None:
    requests = pool(5)
    assert [ids(requests.take(2, NOBODY)[1]) for _ in range(3)] == [[0, 1], [2, 3], [0, 1]]
    assert requests.taken() == {"DebitSMS": 6}
    assert not requests.taken()


def test_a_pool_passes_over_what_still_waits_for_an_answer() -> None:
    requests = pool(6)
    numbers, data = requests.take(2, {number_of(1): 0.0, number_of(2): 0.0}.keys())
    assert ids(data) == [place_of(number) for number in numbers] == [4, 5]
    assert requests.taken() == {"DebitSMS": 2}


def test_a_pool_that_is_in_use_completely_says_so() -> None:
    with pytest.raises(ValueError, match="too small"):
        pool(3).take(4, NOBODY)
    with pytest.raises(ValueError, match="too small"):
        pool(1).take(1, {number_of(0): 0.0}.keys())


def test_no_idempotency_key_is_sent_twice() -> None:
    requests = pool(5, "round1")
    lines = b"".join(requests.take(2, NOBODY)[1] for _ in range(20)).splitlines()
    assert len({json.loads(line)["params"][0]["RequestId"] for line in lines}) == 40


@pytest.mark.parametrize(
    ("expected", "result", "is_fault"),
    [
        (12_500, {"Cost": 12.5}, False),
        (12_500, {"Cost": 12.501}, True),
        (12_500, {}, True),
        (60_000, 60, False),
        (60_000, 61, True),
        (None, 999_999.5, False),
        (None, "999", True),
        (None, True, True),
        (None, None, True),
        ({"status": "up"}, {"status": "up"}, False),
        ({"status": "up"}, {}, True),
    ],
)
def test_wrong_results_are_found(
    expected: int | dict[str, str] | None, result: object, is_fault: bool
) -> None:
    assert bool(fault(Request("GetCost", {}, expected), result)) is is_fault
