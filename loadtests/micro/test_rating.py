"""A rater's own work: reading descriptors and accounts, rating, writing the result."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from common.methods import BY_NAME
from loadtests.micro.samples import ROUND, SECOND, descriptors, for_each, params, requests, tariff
from rater.accounts.mutations import parse_account
from rater.accounts.value import pack_account
from rater.descriptor_reader import parse_descriptor
from rater.model import Account, Bucket
from rater.rating.call_cost import encode_call_cost
from rater.rating.session_time import max_session_us
from rater.rating.spans import Call, rate_call

NOW_US = 1_715_000_000 * SECOND
RICH = Account("rich", 10**15)
ACCOUNTS = {
    "no account": None,
    "account": RICH,
    "other bucket": Account("other", 10**15, buckets=(Bucket("on-net", 10**12, 0, 0),)),
    "bucket": Account("bucket", 10**15, buckets=(Bucket("all", 60 * SECOND, 0, 10**7),)),
    "discount": Account("discount", 10**15, plan="discount", volume_discount_us=200 * SECOND),
}
TARIFFS = {
    "UTC": {},
    "clock changes": {"zone": "Europe/Bucharest"},
    "increments": {"increment_s": 60},
}

whose = pytest.mark.parametrize("whose", ACCOUNTS)
which = pytest.mark.parametrize("which", TARIFFS)


@pytest.mark.parametrize("workload", ["GetCost", "GetMaxSessionTime", "DebitBalance spread"])
def test_read_descriptor(benchmark: BenchmarkFixture, workload: str) -> None:
    asked = requests(workload)
    method = BY_NAME[asked[0].method]
    benchmark(for_each(lambda text: parse_descriptor(text, method), [params(each) for each in asked]))


def test_read_descriptor_with_offsets_of_time(benchmark: BenchmarkFixture) -> None:
    texts = [params(each).replace(b'Z"', b'+00:00"') for each in requests("GetCost")]
    method = BY_NAME["GetCost"]
    benchmark(for_each(lambda text: parse_descriptor(text, method), texts))


def test_read_descriptor_in_lower_case(benchmark: BenchmarkFixture) -> None:
    texts = [params(each).replace(b'"CstmId"', b'"cstmid"') for each in requests("GetCost")]
    method = BY_NAME["GetCost"]
    benchmark(for_each(lambda text: parse_descriptor(text, method), texts))


@whose
def test_get_cost(benchmark: BenchmarkFixture, whose: str) -> None:
    get_cost = pytest.importorskip("rater.rating.quote").get_cost
    compiled, account = tariff(), ACCOUNTS[whose]
    benchmark(for_each(lambda asked: get_cost(compiled, asked, account), descriptors("GetCost")))


@which
def test_get_cost_by_tariff(benchmark: BenchmarkFixture, which: str) -> None:
    get_cost = pytest.importorskip("rater.rating.quote").get_cost
    compiled = tariff(**TARIFFS[which])  # type: ignore[arg-type]
    benchmark(for_each(lambda asked: get_cost(compiled, asked, None), descriptors("GetCost")))


def test_get_cost_of_several_spans(benchmark: BenchmarkFixture) -> None:
    get_cost = pytest.importorskip("rater.rating.quote").get_cost
    compiled = tariff()
    day = {"TimeStart": "2024-05-06T07:59:00Z", "TimeEnd": "2024-05-06T20:01:00Z"}
    benchmark(for_each(lambda asked: get_cost(compiled, asked, None), descriptors("GetCost", **day)))


@whose
def test_rate_call_and_encode(benchmark: BenchmarkFixture, whose: str) -> None:
    """The definition that `get_cost` shortens."""
    compiled, account = tariff(), ACCOUNTS[whose]
    calls = [
        Call(each.tor, each.tenant, each.subject, each.destination, each.start_us, each.end_us)
        for each in descriptors("GetCost")
    ]
    benchmark(for_each(lambda call: encode_call_cost(rate_call(compiled, call, account)), calls))


@pytest.mark.parametrize("whose", [*ACCOUNTS, "little credit"])
def test_max_session_time(benchmark: BenchmarkFixture, whose: str) -> None:
    compiled, account = tariff(), ACCOUNTS.get(whose, Account("poor", 10**6))

    def grant(asked: Any) -> int:
        return max_session_us(compiled, asked, NOW_US, asked.amount_micros, account)

    benchmark(for_each(grant, descriptors("GetMaxSessionTime")))


def test_find_rate(benchmark: BenchmarkFixture) -> None:
    find_rate = tariff().find_rate
    benchmark(for_each(lambda asked: find_rate(asked.subject, asked.destination), descriptors("GetCost")))


@pytest.mark.parametrize("buckets", [0, 2])
def test_parse_account(benchmark: BenchmarkFixture, buckets: int) -> None:
    """As the store replies to `rater.accounts.mutations.read_command`."""
    held = tuple(Bucket("national", 10**9, index, 0) for index in range(buckets))
    value = pack_account(Account("", 10**15, 10**8, reset_day=10, plan="evening", buckets=held), 1)
    benchmark(for_each(lambda subject: parse_account(subject, value), [str(n) for n in range(ROUND)]))
