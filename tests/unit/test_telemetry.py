"""What is counted of answers: every one once, under its method and outcome, and how long it took."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from balancer.actions import Answer, Request
from balancer.telemetry import (
    HISTORY_S,
    MAX_NAMES,
    SECOND_US,
    WINDOW_S,
    Telemetry,
    latency_us,
    together,
)
from common.about import About
from common.errors import BY_CODE, Overloaded, StoreUnavailable, UnknownTenant
from common.histogram import SIZE_BUCKETS, index_of
from common.methods import METHODS
from common.outcomes import OTHER
from rater.telemetry import RaterTelemetry
from rater.work.jobs import Job, Outcome, Undecided

DEADLINE_US = 5_000_000
NOW_US = 100_000_000


def answer(method: str, took_us: int | None, code: int = 0, replayed: bool = False) -> Answer:
    """`took_us` None: it was refused at once."""
    request = Request(method, b"{}", "", None)
    request.deadline_us = 0 if took_us is None else NOW_US - took_us + DEADLINE_US
    return Answer(request, code, b"1", replayed)


answers = st.builds(
    answer,
    st.sampled_from(["GetCost", "DebitBalance", 'GetCost ["vdf"]', "Get", "nonsense"]),
    st.one_of(st.none(), st.sampled_from([3, 900]), st.integers(0, 10**7)),
    st.sampled_from([0, 0, UnknownTenant.code, StoreUnavailable.code, -7]),
    st.booleans(),
)


@given(st.lists(st.lists(answers)))
def test_every_answer_is_counted_once(batches: list[list[Answer]]) -> None:
    telemetry = Telemetry(NOW_US)
    for batch in batches:
        telemetry.answered(batch, NOW_US, DEADLINE_US)
    everything = [each for batch in batches for each in batch]
    names = {
        "GetCost": "GetCost",
        'GetCost ["vdf"]': "GetCost",
        "Get": "GetCost",
        "DebitBalance": "DebitBalance",
    }
    for name, totals in telemetry.methods.items():
        mine = [each for each in everything if names.get(each.request.method, OTHER) == name]
        admitted = [
            NOW_US + DEADLINE_US - each.request.deadline_us for each in mine if each.request.deadline_us
        ]
        assert totals.answers == len(mine)
        assert totals.replays == sum(each.replayed for each in mine)
        assert totals.sum_us == sum(admitted)
        for index, count in enumerate(totals.counts[:-1]):
            assert count == sum(index_of(took_us) == index for took_us in admitted)
        outcomes = totals.outcomes()
        assert sum(outcomes.values()) == len(mine)
        for code, outcome in ((0, "ok"), (UnknownTenant.code, "unknown_tenant"), (-7, OTHER)):
            assert outcomes.get(outcome, 0) == sum(each.code == code for each in mine)
    assert sum(totals.answers for totals in telemetry.methods.values()) == len(everything)


def test_what_was_turned_away_is_an_answer_without_a_latency() -> None:
    telemetry = Telemetry(NOW_US)
    telemetry.turned_one_away("GetCost")
    telemetry.tick(NOW_US + SECOND_US, ())
    assert telemetry.turned_away == 1
    assert telemetry.methods["GetCost"].outcomes() == {"ok": 0, Overloaded.name: 1}
    second = telemetry.recent().methods["GetCost"]
    assert (second.answers, second.errors, latency_us(second)) == (1, 1, [0, 0, 0])


def test_clients_do_not_make_names_without_end() -> None:
    telemetry = Telemetry(NOW_US)
    for number in range(2 * MAX_NAMES):
        telemetry.answered([answer(f"name{number}", 10, code=-number)], NOW_US, DEADLINE_US)
    assert list(telemetry.methods) == [OTHER]
    assert telemetry.methods[OTHER].answers == 2 * MAX_NAMES
    assert len(telemetry._by_name) == MAX_NAMES
    assert set(telemetry.methods[OTHER].outcomes()) <= {"ok", OTHER, *(cls.name for cls in BY_CODE.values())}


def test_a_second_holds_what_came_since_the_one_before() -> None:
    telemetry = Telemetry(NOW_US)
    telemetry.answered([answer("GetCost", 100)] * 3, NOW_US, DEADLINE_US)
    telemetry.tick(NOW_US + SECOND_US, ())
    telemetry.answered([answer("GetCost", 200, StoreUnavailable.code)], NOW_US, DEADLINE_US)
    telemetry.answered([answer("DebitSMS", 300, UnknownTenant.code)], NOW_US, DEADLINE_US)
    telemetry.tick(NOW_US + 3 * SECOND_US, ())
    telemetry.tick(NOW_US + 4 * SECOND_US, ())
    seen = [
        (
            interval.span_us,
            {name: (second.answers, second.errors) for name, second in interval.methods.items()},
        )
        for interval in telemetry.history
    ]
    assert seen == [
        (SECOND_US, {"GetCost": (3, 0)}),
        (2 * SECOND_US, {"GetCost": (1, 1), "DebitSMS": (1, 0)}),
        (SECOND_US, {}),
    ]
    recent = telemetry.recent()
    assert recent.span_us == 4 * SECOND_US
    assert together(recent.methods.values())[:2] == (5, 1)


def test_history_and_window_are_bounded() -> None:
    telemetry = Telemetry(0)
    for second in range(1, HISTORY_S + 20):
        telemetry.answered([answer("GetCost", 100)] * second, NOW_US, DEADLINE_US)
        telemetry.tick(second * SECOND_US, ())
    assert len(telemetry.history) == HISTORY_S
    last = HISTORY_S + 19
    assert telemetry.recent().methods["GetCost"].answers == sum(range(last - WINDOW_S + 1, last + 1))


def test_raters_that_are_gone_are_forgotten() -> None:
    telemetry = Telemetry(0)
    telemetry.abouts |= {b"here": About(), b"gone": About()}
    telemetry.tick(SECOND_US, [b"here"])
    assert list(telemetry.abouts) == [b"here"]


# --- raters ---------------------------------------------------------------------------------------------


class Nowhere:
    life = "x"

    def reply(self, seq: int, outcome: Outcome) -> None:
        raise AssertionError


jobs_and_outcomes = st.tuples(
    st.builds(
        Job,
        origin=st.just(Nowhere()),
        seq=st.just(1),
        method=st.sampled_from([*METHODS, None]),
        params=st.just(b"{}"),
        key=st.just(""),
        deadline_us=st.just(1),
    ),
    st.one_of(
        st.sampled_from(Undecided),
        st.builds(Outcome, st.sampled_from([0, UnknownTenant.code]), st.just(b"1"), st.booleans()),
    ),
)


@given(st.lists(st.lists(jobs_and_outcomes, max_size=40)))
def test_a_rater_counts_each_job_of_a_batch(batches: list[list[tuple[Job, Outcome | Undecided]]]) -> None:
    telemetry = RaterTelemetry(0)
    for batch in batches:
        telemetry.batch([job for job, _ in batch], [outcome for _, outcome in batch], 50)
    everything = [pair for batch in batches for pair in batch]
    decided = [
        (job.method.name if job.method else OTHER, outcome)
        for job, outcome in everything
        if isinstance(outcome, Outcome)
    ]
    assert telemetry.requests == len(everything)
    assert telemetry.undecided == len(everything) - len(decided)
    assert telemetry.replays == sum(outcome.replayed for _, outcome in decided)
    for (name, code), count in telemetry.outcomes.items():
        assert count == sum((method, outcome.code) == (name, code) for method, outcome in decided)
    assert sum(telemetry.outcomes.values()) == len(decided)
    sizes = [len(batch) for batch in batches if batch]
    assert sum(telemetry.batches.counts) == len(sizes)
    for place, bound in enumerate(SIZE_BUCKETS[:-1]):
        assert sum(telemetry.sizes[: place + 1]) == sum(size <= bound for size in sizes)
