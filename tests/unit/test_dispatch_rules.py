"""What dispatch does with requests and raters, one rule a test."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import msgspec
import pytest

from balancer.actions import Action, Answer, Request, Send, SendDrained
from balancer.dispatch import (
    MAX_ATTEMPTS,
    MAX_QUEUED_BYTES,
    MAX_RATERS,
    MAX_TICK_GAP_US,
    SILENCE_US,
    Dispatch,
    DispatchSettings,
    Readiness,
)
from balancer.sharing import COPIES_PER_S, MIN_SHARE
from common.errors import (
    DeadlineExceeded,
    InternalError,
    Overloaded,
    Quarantined,
    RatelError,
    ShuttingDown,
    StoreUnavailable,
    encode_error,
)
from common.wire import (
    HEARTBEAT_MS,
    ITEM_BYTES,
    MAX_FRAME_BYTES,
    MAX_KEY_CHARS,
    MAX_METHOD_CHARS,
    WorkItem,
    encode_work,
    fitting,
)

MS = 1000
SETTINGS = DispatchSettings(deadline_us=5000 * MS, attempt_timeout_us=1500 * MS, max_queued=100)
A, B, C = b"a", b"b", b"c"


def request(params: bytes = b"{}") -> Request:
    return Request("GetCost", params, "", lambda code, body, replayed: None)


def dispatch_with(*raters: bytes, credit: int = 10, settings: DispatchSettings = SETTINGS) -> Dispatch:
    dispatch = Dispatch(settings)
    dispatch.tick(0)
    for rater in raters:
        dispatch.state(rater, rater.decode(), credit, 1, 0)
    return dispatch


def submit(dispatch: Dispatch, count: int, now_us: int = 0) -> list[Request]:
    requests = [request() for _ in range(count)]
    for each in requests:
        assert dispatch.submit(each, now_us) is None
    return requests


def sizes(actions: list[Send]) -> dict[bytes, int]:
    counts = {send.rater_id: len(send.items) for send in actions}
    assert len(counts) == len(actions), "more than one message for a rater"
    return counts


def seqs(actions: list[Send]) -> dict[bytes, list[int]]:
    return {send.rater_id: [item.seq for item in send.items] for send in actions}


def done(*seqs: int) -> list[list[object]]:
    return [[seq, 0, b"1", False] for seq in seqs]


def pass_time(dispatch: Dispatch, from_us: int, to_us: int, *beating: bytes) -> list[Action]:
    """Ticks and heartbeats as the router makes them."""
    actions: list[Action] = []
    for now_us in range(from_us, to_us + 1, 50 * MS):
        for rater in beating:
            dispatch.state(rater, rater.decode(), 10, 1, now_us)
        actions += dispatch.tick(now_us)
        actions += dispatch.flush(now_us)
    return actions


def answers(actions: list[Action]) -> list[Answer]:
    return [action for action in actions if isinstance(action, Answer)]


def sends(actions: list[Action]) -> list[Send]:
    return [action for action in actions if isinstance(action, Send)]


def test_what_was_submitted_in_one_turn_leaves_as_one_message_per_rater_split_evenly() -> None:
    dispatch = dispatch_with(A, B, C, credit=100)
    submit(dispatch, 80)
    counts = sizes(dispatch.flush(0))
    assert sorted(counts.values()) == [26, 27, 27]


def test_the_least_loaded_rater_is_filled_first() -> None:
    dispatch = dispatch_with(A, credit=100)
    submit(dispatch, 40)
    dispatch.flush(0)
    dispatch.state(B, "b", 100, 1, 0)
    submit(dispatch, 20)
    assert sizes(dispatch.flush(0)) == {B: 20}
    submit(dispatch, 40)
    assert sizes(dispatch.flush(0)) == {A: 10, B: 30}


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, [1]),
        (MIN_SHARE, [MIN_SHARE]),
        (2 * MIN_SHARE - 1, [2 * MIN_SHARE - 1]),
        (2 * MIN_SHARE, [MIN_SHARE, MIN_SHARE]),
        (4 * MIN_SHARE, [22, 21, 21]),
    ],
)
def test_no_more_raters_get_a_message_than_there_is_a_share_for(count: int, expected: list[int]) -> None:
    dispatch = dispatch_with(A, B, C, credit=100)
    submit(dispatch, count)
    assert sorted(sizes(dispatch.flush(0)).values(), reverse=True) == expected


def test_those_that_got_none_are_next() -> None:
    dispatch = dispatch_with(A, B, C, credit=100)
    asked = set()
    for _ in range(3):
        submit(dispatch, MIN_SHARE)
        asked |= sizes(dispatch.flush(0)).keys()
    assert asked == {A, B, C}


def test_raters_of_equal_load_take_turns() -> None:
    dispatch = dispatch_with(A, B)
    turns: Counter[bytes] = Counter()
    for _ in range(10):
        submit(dispatch, 1)
        [send] = dispatch.flush(0)
        turns[send.rater_id] += 1
        dispatch.replies(send.rater_id, done(send.items[0].seq), 0)
    assert turns == {A: 5, B: 5}


def test_no_rater_gets_more_than_its_credit_and_the_rest_follows_its_replies() -> None:
    dispatch = dispatch_with(A, credit=3)
    submit(dispatch, 5)
    [send] = dispatch.flush(0)
    assert [item.seq for item in send.items] == [1, 2, 3]
    assert dispatch.flush(0) == []
    assert len(dispatch.replies(A, done(2), 0)) == 1
    assert seqs(dispatch.flush(0)) == {A: [4]}


def test_a_batch_fills_small_raters_and_gives_the_rest_to_large_ones() -> None:
    dispatch = dispatch_with(A, credit=2)
    dispatch.state(B, "b", 50, 1, 0)
    submit(dispatch, 20)
    assert sizes(dispatch.flush(0)) == {A: 2, B: 18}


def test_a_changed_credit_is_taken_over() -> None:
    dispatch = dispatch_with(A, credit=3)
    submit(dispatch, 6)
    dispatch.flush(0)
    dispatch.state(A, "a", 5, 1, 0)
    assert sizes(dispatch.flush(0)) == {A: 2}
    dispatch.state(A, "a", 1, 1, 0)
    dispatch.replies(A, done(1, 2, 3), 0)
    assert dispatch.flush(0) == []


@pytest.mark.parametrize(("credit", "epoch"), [(10, 0), (0, 1), (-5, 1)])
def test_a_rater_without_tariff_or_credit_gets_no_work(credit: int, epoch: int) -> None:
    dispatch = dispatch_with()
    dispatch.state(A, "a", credit, epoch, 0)
    submit(dispatch, 1)
    assert dispatch.flush(0) == []
    assert dispatch.readiness.raters == 0


def test_readiness_counts_the_raters_that_can_work_and_names_the_newest_tariff() -> None:
    dispatch = dispatch_with()
    assert dispatch.readiness == Readiness(0, 0)
    dispatch.state(A, "a", 10, 4, 0)
    dispatch.state(B, "b", 10, 5, 0)
    dispatch.state(C, "c", 10, 0, 0)
    assert dispatch.readiness == Readiness(2, 5)
    dispatch.leave(B, 0)
    assert dispatch.readiness == Readiness(1, 4)


def test_a_request_waits_for_a_rater_until_its_deadline() -> None:
    dispatch = dispatch_with()
    submit(dispatch, 1)
    assert answers(pass_time(dispatch, 0, 4950 * MS)) == []
    dispatch.state(A, "a", 10, 1, 4960 * MS)
    assert sizes(dispatch.flush(4960 * MS)) == {A: 1}


@pytest.mark.parametrize(
    ("raters", "epoch", "credit", "where"),
    [
        ([], 0, 10, "no rater is there"),
        ([A], 0, 10, "no rater has a tariff"),
        ([A], 1, 1, "every rater is busy"),
    ],
)
def test_the_deadline_error_says_where_the_request_was(
    raters: list[bytes], epoch: int, credit: int, where: str
) -> None:
    dispatch = dispatch_with()
    submit(dispatch, 2)
    late: list[Answer] = []
    for now_us in range(0, 5001 * MS, 50 * MS):
        for rater in raters:
            dispatch.state(rater, "a", credit, epoch, now_us)
        dispatch.flush(now_us)
        late += answers(dispatch.tick(now_us))
    assert [answer.code for answer in late] == [DeadlineExceeded.code] * 2
    error = msgspec.json.decode(late[1].body)
    assert error["name"] == "deadline_exceeded"
    assert f"after 5000 ms {where}" in error["message"]
    assert "nothing was done" in error["message"]


def test_after_the_deadline_the_credit_is_free_again_and_a_late_reply_is_dropped() -> None:
    dispatch = dispatch_with(A, credit=1)
    submit(dispatch, 1)
    dispatch.flush(0)
    [late] = answers(pass_time(dispatch, 0, 5000 * MS, A))
    assert late.code == DeadlineExceeded.code
    assert b"unknown" in late.body
    assert dispatch.replies(A, done(1), 5001 * MS) == []
    dispatch.state(A, "a", 1, 1, 5001 * MS)
    submit(dispatch, 1, 5001 * MS)
    assert sizes(dispatch.flush(5001 * MS)) == {A: 1}


def test_beyond_max_queued_the_answer_is_overloaded_at_once() -> None:
    dispatch = dispatch_with(A, credit=60)
    submit(dispatch, 60)
    dispatch.flush(0)
    submit(dispatch, 40)
    refusal = dispatch.submit(request(), 0)
    assert refusal is not None
    assert refusal.code == Overloaded.code
    assert b"100 requests" in refusal.body
    dispatch.replies(A, done(1), 0)
    assert dispatch.submit(request(), 0) is None


def test_a_silent_raters_requests_go_first_under_the_same_sequence_numbers() -> None:
    dispatch = dispatch_with(A, credit=2)
    submit(dispatch, 4)
    dispatch.flush(0)
    actions: list[Action] = []
    for now_us in range(0, SILENCE_US, 50 * MS):
        actions += dispatch.tick(now_us)
    assert actions == []
    dispatch.state(B, "b", 3, 1, SILENCE_US)
    assert dispatch.tick(SILENCE_US) == []
    assert dispatch.silent_rater_ids() == {A}
    assert seqs(dispatch.flush(SILENCE_US)) == {B: [1, 2, 3]}


def test_replies_are_signs_of_life() -> None:
    dispatch = dispatch_with(A)
    for now_us in range(0, 10 * SILENCE_US, 50 * MS):
        dispatch.replies(A, [], now_us)
        dispatch.tick(now_us)
        assert dispatch.silent_rater_ids() == set()


def test_silence_does_not_count_while_the_balancer_itself_was_held_up() -> None:
    dispatch = dispatch_with(A)
    dispatch.tick(400 * MS)
    dispatch.tick(400 * MS + 10 * SILENCE_US)
    assert dispatch.silent_rater_ids() == set()
    gap_us = MAX_TICK_GAP_US // 2
    for step in range(10):
        dispatch.tick(400 * MS + 10 * SILENCE_US + step * gap_us)
    assert dispatch.silent_rater_ids() == {A}


def test_a_request_whose_raters_died_twice_is_quarantined() -> None:
    dispatch = dispatch_with(A, B)
    submit(dispatch, 1)
    [first] = dispatch.flush(0)
    assert dispatch.lost(first.rater_id, dead=True) == []
    [second] = dispatch.flush(0)
    assert second.rater_id != first.rater_id
    [answer] = answers(dispatch.lost(second.rater_id, dead=True))
    assert answer.code == Quarantined.code
    assert dispatch.unanswered == 0


def fall_silent(dispatch: Dispatch, from_us: int, *beating: bytes) -> int:
    """The time at which all raters but those beating are silent."""
    now_us = from_us + SILENCE_US
    assert pass_time(dispatch, from_us, now_us, *beating) == []
    return now_us


def test_silence_is_no_death_and_a_silent_raters_late_reply_counts() -> None:
    dispatch = dispatch_with(A)
    submit(dispatch, 2)
    dispatch.flush(0)
    now_us = fall_silent(dispatch, 0)
    assert dispatch.readiness.raters == 0
    assert [answer.request.seq for answer in dispatch.replies(A, done(1), now_us)] == [1]
    assert dispatch.silent_rater_ids() == set()
    dispatch.state(B, "b", 10, 1, now_us)
    assert dispatch.flush(now_us) == [], "the second one is still with the rater that is heard again"
    assert len(dispatch.replies(A, done(2), now_us)) == 1


def test_raters_that_fall_silent_one_after_the_other_get_no_request_quarantined() -> None:
    dispatch = dispatch_with(A)
    submit(dispatch, 1)
    dispatch.flush(0)
    now_us = fall_silent(dispatch, 0)
    dispatch.state(B, "b", 10, 1, now_us)
    assert seqs(dispatch.flush(now_us)) == {B: [1]}
    now_us = fall_silent(dispatch, now_us)
    assert dispatch.silent_rater_ids() == {A, B}
    dispatch.state(C, "c", 10, 1, now_us)
    assert seqs(dispatch.flush(now_us)) == {C: [1]}
    assert len(dispatch.replies(C, done(1), now_us)) == 1


def test_silent_raters_whose_connections_end_later_are_no_deaths_either() -> None:
    dispatch = dispatch_with(A)
    submit(dispatch, 1)
    dispatch.flush(0)
    now_us = fall_silent(dispatch, 0)
    dispatch.state(B, "b", 10, 1, now_us)
    dispatch.flush(now_us)
    now_us = fall_silent(dispatch, now_us)
    assert dispatch.lost(A, dead=True) == dispatch.lost(B, dead=True) == []
    dispatch.state(C, "c", 10, 1, now_us)
    assert seqs(dispatch.flush(now_us)) == {C: [1]}


def test_a_request_that_silences_every_rater_has_a_bounded_number_of_attempts() -> None:
    settings = DispatchSettings(deadline_us=60_000 * MS)
    dispatch = dispatch_with(settings=settings)
    submit(dispatch, 1)
    tried, end_us = 0, 0
    for number in range(10):
        dispatch.state(f"r{number}".encode(), "", 10, 1, end_us)
        tried += len(dispatch.flush(end_us))
        end_us = fall_silent(dispatch, end_us)
    assert tried == MAX_ATTEMPTS
    for number in range(10):
        assert dispatch.lost(f"r{number}".encode(), dead=True) == []
    assert dispatch.unanswered == 1
    [late] = answers(pass_time(dispatch, end_us, 60_000 * MS))
    assert late.code == DeadlineExceeded.code
    assert b"unknown" in late.body


def test_a_rater_whose_queue_is_full_is_out_but_not_dead() -> None:
    dispatch = dispatch_with(A, B, C)
    submit(dispatch, 1)
    for _ in range(2):
        [send] = dispatch.flush(0)
        assert dispatch.lost(send.rater_id, dead=False) == []
    [send] = dispatch.flush(0)
    assert len(dispatch.replies(send.rater_id, done(1), 0)) == 1


def test_a_request_that_had_all_its_attempts_goes_to_a_fresh_rater_once_its_silent_ones_are_lost() -> None:
    dispatch = dispatch_with(A, B, C, settings=replace(SETTINGS, attempt_timeout_us=400 * MS))
    [only] = submit(dispatch, 1)
    sent = [*dispatch.flush(0), *sends(pass_time(dispatch, 0, 2000 * MS))]
    assert len(sent) == MAX_ATTEMPTS
    assert dispatch.silent_rater_ids() == {A, B, C}
    dispatch.state(b"d", "d", 10, 1, 2000 * MS)
    assert not sends(dispatch.flush(2000 * MS)), "it is left to those that have it"
    for rater in (A, B, C):
        assert not dispatch.lost(rater, dead=True)
    assert seqs(dispatch.flush(2000 * MS)) == {b"d": [only.seq]}


def test_a_reply_of_a_silent_rater_to_a_request_that_another_has_too_counts_once() -> None:
    dispatch = dispatch_with(A, credit=1)
    submit(dispatch, 1)
    dispatch.flush(0)
    now_us = fall_silent(dispatch, 0)
    dispatch.state(B, "b", 1, 1, now_us)
    dispatch.flush(now_us)
    assert len(dispatch.replies(A, done(1), now_us)) == 1
    submit(dispatch, 2, now_us)
    dispatch.state(A, "a", 1, 1, now_us)
    assert sizes(dispatch.flush(now_us)) == {A: 1}
    assert dispatch.replies(B, done(1), now_us) == []
    assert sizes(dispatch.flush(now_us)) == {B: 1}


@pytest.mark.parametrize(
    ("code", "body"),
    [
        (-32000, b"nope"),
        (-32000, b"{}"),
        (-32000, b""),
        (-32000, b"\xff\xfe"),
        (-32000, b"[" * 100_000),
        (StoreUnavailable.code, encode_error(Overloaded(detail="x"))),
        (0, b""),
    ],
)
def test_a_faulty_reply_becomes_an_internal_error_and_the_others_beside_it_count(
    code: int, body: bytes
) -> None:
    dispatch = dispatch_with(A)
    submit(dispatch, 3)
    dispatch.flush(0)
    first, faulty, last = dispatch.replies(A, [*done(1), [2, code, body, False], *done(3)], 0)
    assert (first.code, last.code) == (0, 0)
    assert faulty.code == InternalError.code
    error = msgspec.json.decode(faulty.body)
    assert error["name"] == "internal_error"
    assert f"rater a made a faulty reply: code {code}, {len(body)} bytes" in error["message"]


def test_a_raters_own_error_is_passed_on_as_it_is() -> None:
    dispatch = dispatch_with(A)
    [only] = submit(dispatch, 1)
    dispatch.flush(0)
    body = encode_error(StoreUnavailable(detail="x"))
    [answer] = dispatch.replies(A, [[1, StoreUnavailable.code, body, True]], 0)
    assert answer == Answer(only, StoreUnavailable.code, body, True)


NOTHING_DONE = encode_error(DeadlineExceeded(detail="nothing was done before it"))


def test_nothing_was_done_is_not_passed_on_after_an_earlier_attempt() -> None:
    dispatch = dispatch_with(A, B)
    submit(dispatch, 1)
    [first] = dispatch.flush(0)
    dispatch.lost(first.rater_id, dead=True)
    [second] = dispatch.flush(0)
    [answer] = dispatch.replies(second.rater_id, [[1, DeadlineExceeded.code, NOTHING_DONE, False]], 0)
    assert answer.code == DeadlineExceeded.code
    assert b"nothing was done" not in answer.body
    assert b"whether it was carried out is unknown" in answer.body


@pytest.mark.parametrize("refusal", [Overloaded(detail="full"), ShuttingDown()])
def test_a_refusal_is_not_passed_on_after_an_earlier_attempt(refusal: RatelError) -> None:
    """A gateway's balancers say so, too; both errors promise that nothing was changed."""
    dispatch = dispatch_with(A, B)
    submit(dispatch, 1)
    [first] = dispatch.flush(0)
    dispatch.lost(first.rater_id, dead=True)
    [second] = dispatch.flush(0)
    rows = [[1, refusal.code, encode_error(refusal), False]]
    [answer] = dispatch.replies(second.rater_id, rows, 0)
    assert answer.code == DeadlineExceeded.code
    assert b"whether it was carried out is unknown" in answer.body


@pytest.mark.parametrize("refusal", [Overloaded(detail="full"), ShuttingDown()])
def test_a_refusal_of_the_only_attempt_is_passed_on(refusal: RatelError) -> None:
    dispatch = dispatch_with(A)
    submit(dispatch, 1)
    dispatch.flush(0)
    [answer] = dispatch.replies(A, [[1, refusal.code, encode_error(refusal), False]], 0)
    assert (answer.code, answer.body) == (refusal.code, encode_error(refusal))


def test_nothing_was_done_is_passed_on_when_no_other_rater_ever_got_the_request() -> None:
    dispatch = dispatch_with(A, B)
    submit(dispatch, 1)
    [first] = dispatch.flush(0)
    dispatch.lost(first.rater_id, unsent={1}, dead=True)
    [second] = dispatch.flush(0)
    [answer] = dispatch.replies(second.rater_id, [[1, DeadlineExceeded.code, NOTHING_DONE, False]], 0)
    assert answer.body == NOTHING_DONE


@pytest.mark.parametrize("error", [Overloaded(detail="as many requests are here"), ShuttingDown()])
def test_a_refusal_after_an_earlier_attempt_leaves_the_outcome_open(error: RatelError) -> None:
    dispatch = dispatch_with(A, B)
    submit(dispatch, 1)
    [first] = dispatch.flush(0)
    dispatch.lost(first.rater_id, dead=True)
    [second] = dispatch.flush(0)
    [answer] = dispatch.replies(second.rater_id, [[1, error.code, encode_error(error), False]], 0)
    assert answer.code == DeadlineExceeded.code
    assert b"whether it was carried out is unknown" in answer.body


def test_work_may_be_done_no_later_than_it_is_answered() -> None:
    dispatch = dispatch_with(A)
    for until_us in (1, 4999 * MS, 5001 * MS, 2**70):
        each = request()
        each.work_deadline_us = until_us
        assert dispatch.submit(each, 0) is None
    [send] = dispatch.flush(0)
    assert [item.deadline_us for item in send.items] == [1, 4999 * MS, 5000 * MS, 5000 * MS]
    assert encode_work("id", 0, send.items)


def test_beyond_the_bytes_that_may_be_queued_the_answer_is_overloaded() -> None:
    dispatch = dispatch_with(A, credit=1)
    large = b"x" * (MAX_QUEUED_BYTES // 4)
    for _ in range(4):
        assert dispatch.submit(request(large), 0) is None
    refusal = dispatch.submit(request(), 0)
    assert refusal is not None
    assert refusal.code == Overloaded.code
    assert b"requests of 256 MiB are waiting" in refusal.body
    dispatch.flush(0)
    dispatch.replies(A, done(1), 0)
    assert dispatch.submit(request(large), 0) is None
    assert len(answers(pass_time(dispatch, 0, 5000 * MS))) == 4
    for _ in range(4):
        assert dispatch.submit(request(large), 5000 * MS) is None


def test_a_batch_is_cut_where_a_message_would_become_too_large() -> None:
    def items(*lengths: int) -> list[WorkItem]:
        method, key = "\U0001f600" * MAX_METHOD_CHARS, "\U0001f600" * MAX_KEY_CHARS
        return [WorkItem(2**63, method, b"x" * length, key, 2**63) for length in lengths]

    assert fitting(items(1, 2, 3), MAX_FRAME_BYTES) == 3
    assert fitting(items(*[900_000] * 40), MAX_FRAME_BYTES) == 18
    assert len(encode_work("id" * 8, 2**60, items(*[900_000] * 18))) <= MAX_FRAME_BYTES
    most = items(*[0] * 20_000)[: MAX_FRAME_BYTES // ITEM_BYTES]
    assert len(encode_work("id" * 8, 2**60, most)) <= MAX_FRAME_BYTES
    assert fitting(items(2 * MAX_FRAME_BYTES, 1), MAX_FRAME_BYTES) == 1
    assert fitting(items(1, 2 * MAX_FRAME_BYTES), MAX_FRAME_BYTES) == 1
    assert fitting(items(*[0] * 20_000), MAX_FRAME_BYTES) == MAX_FRAME_BYTES // ITEM_BYTES


def test_a_rater_that_announces_no_credit_keeps_what_it_has_and_gets_nothing_new() -> None:
    dispatch = dispatch_with(A, credit=5)
    submit(dispatch, 7)
    assert sizes(dispatch.flush(0)) == {A: 5}
    for now_us in range(0, 1400 * MS, 50 * MS):
        dispatch.state(A, "a", 0, 1, now_us)
        assert dispatch.tick(now_us) == []
        assert dispatch.flush(now_us) == []
    assert dispatch.readiness.raters == 0
    assert len(dispatch.replies(A, done(1, 2), 1400 * MS)) == 2
    assert dispatch.flush(1400 * MS) == []
    dispatch.state(A, "a", 5, 1, 1400 * MS)
    assert seqs(dispatch.flush(1400 * MS)) == {A: [6, 7]}


def test_raters_that_leave_in_order_or_never_got_the_message_are_no_deaths() -> None:
    dispatch = dispatch_with(A)
    submit(dispatch, 1)
    for number in range(10):
        [send] = dispatch.flush(0)
        if number % 3 == 0:
            assert dispatch.goodbye(send.rater_id) == []
        elif number % 3 == 1:
            assert dispatch.lost(send.rater_id, unsent={1}, dead=True) == []
        else:
            dispatch.leave(send.rater_id, 0)
            assert dispatch.lost(send.rater_id, dead=True) == []
        dispatch.state(f"next{number}".encode(), "next", 10, 1, 0)
    [send] = dispatch.flush(0)
    assert len(dispatch.replies(send.rater_id, done(1), 0)) == 1


def test_a_leaving_rater_gets_no_more_work_but_its_replies_count() -> None:
    dispatch = dispatch_with(A)
    submit(dispatch, 2)
    dispatch.flush(0)
    assert dispatch.leave(A, 0) == [SendDrained(A)]
    dispatch.state(A, "a", 10, 1, 0)
    submit(dispatch, 1)
    assert dispatch.flush(0) == []
    assert len(dispatch.replies(A, done(1, 2), 0)) == 2
    assert dispatch.goodbye(A) == []
    assert dispatch.rater_ids() == []


def test_a_leaving_rater_that_was_taken_for_dead_does_not_come_back_by_its_heartbeats() -> None:
    dispatch = dispatch_with()
    assert dispatch.leave(A, 0) == [SendDrained(A)]
    dispatch.state(A, "a", 10, 1, 0)
    submit(dispatch, 1)
    assert dispatch.flush(0) == []


def test_replies_of_strangers_and_for_others_requests_are_dropped() -> None:
    dispatch = dispatch_with(A, B)
    submit(dispatch, 1)
    [send] = dispatch.flush(0)
    other = B if send.rater_id == A else A
    assert dispatch.replies(b"stranger", done(1), 0) == []
    assert dispatch.replies(other, done(1), 0) == []
    assert dispatch.replies(send.rater_id, done(99, -1), 0) == []
    assert len(dispatch.replies(send.rater_id, done(1, 1), 0)) == 1
    assert dispatch.replies(send.rater_id, done(1), 0) == []


def test_an_attempt_without_reply_is_sent_to_another_rater_and_the_first_reply_wins() -> None:
    dispatch = dispatch_with(A, B)
    [only] = submit(dispatch, 1)
    [first] = dispatch.flush(0)
    copies = sends(pass_time(dispatch, 0, 1500 * MS, A, B))
    assert [send.items for send in copies] == [first.items]
    assert copies[0].rater_id != first.rater_id
    [answer] = dispatch.replies(copies[0].rater_id, [[1, 0, b"2", True]], 1500 * MS)
    assert answer == Answer(only, 0, b"2", True)
    assert dispatch.replies(first.rater_id, done(1), 1500 * MS) == []


def test_the_slower_copy_keeps_its_credit_until_its_reply() -> None:
    dispatch = dispatch_with(A, B, credit=1)
    submit(dispatch, 1)
    [first] = dispatch.flush(0)
    now_us = 1500 * MS
    for at_us in range(0, now_us + 1, 50 * MS):
        for rater in (A, B):
            dispatch.state(rater, "", 1, 1, at_us)
        copies = sends(dispatch.tick(at_us))
    dispatch.replies(copies[0].rater_id, done(1), now_us)
    submit(dispatch, 2, now_us)
    assert sizes(dispatch.flush(now_us)) == {copies[0].rater_id: 1}
    dispatch.replies(first.rater_id, done(1), now_us)
    assert sizes(dispatch.flush(now_us)) == {first.rater_id: 1}


def test_a_request_has_a_bounded_number_of_attempts() -> None:
    raters = [bytes([65 + n]) for n in range(6)]
    dispatch = dispatch_with(*raters)
    submit(dispatch, 1)
    actions = [*dispatch.flush(0), *pass_time(dispatch, 0, 4950 * MS, *raters)]
    used = [send.rater_id for send in sends(actions)]
    assert len(used) == MAX_ATTEMPTS
    assert len(set(used)) == MAX_ATTEMPTS


def test_second_copies_take_from_a_budget() -> None:
    settings = DispatchSettings(max_queued=10_000)
    dispatch = dispatch_with(A, credit=10_000, settings=settings)
    submit(dispatch, 2000)
    dispatch.flush(0)
    copies = 0
    for now_us in range(0, 3001 * MS, 50 * MS):
        for rater in (A, B):
            dispatch.state(rater, "", 10_000, 1, now_us)
        copies += sum(len(send.items) for send in sends(dispatch.tick(now_us)))
    assert 0 < copies <= 2000 // 10 + COPIES_PER_S * 4


def test_there_is_no_second_copy_without_another_rater_with_credit() -> None:
    dispatch = dispatch_with(A, B, credit=1)
    submit(dispatch, 2)
    dispatch.flush(0)
    actions: list[Action] = []
    for now_us in range(0, 4950 * MS, 50 * MS):
        for rater in (A, B):
            dispatch.state(rater, "", 1, 1, now_us)
        actions += dispatch.tick(now_us)
    assert actions == []


def test_when_a_copys_rater_dies_the_other_one_still_answers() -> None:
    dispatch = dispatch_with(A, B)
    submit(dispatch, 1)
    [first] = dispatch.flush(0)
    [copy] = sends(pass_time(dispatch, 0, 1500 * MS, A, B))
    assert dispatch.lost(first.rater_id, dead=True) == []
    assert dispatch.flush(1500 * MS) == []
    assert len(dispatch.replies(copy.rater_id, done(1), 1500 * MS)) == 1


def test_after_close_new_requests_are_refused_and_old_ones_run_on() -> None:
    dispatch = dispatch_with(A)
    submit(dispatch, 1)
    dispatch.close()
    refusal = dispatch.submit(request(), 0)
    assert refusal is not None
    assert refusal.code == ShuttingDown.code
    [send] = dispatch.flush(0)
    assert dispatch.unanswered == 1
    assert len(dispatch.replies(send.rater_id, done(1), 0)) == 1
    assert dispatch.unanswered == 0


def test_the_number_of_raters_is_bounded() -> None:
    dispatch = dispatch_with()
    for number in range(MAX_RATERS):
        assert dispatch.state(str(number).encode(), "", 1, 1, 0)
    assert not dispatch.state(b"one more", "", 1, 1, 0)
    assert dispatch.leave(b"one more", 0) == [SendDrained(b"one more")]
    assert len(dispatch.rater_ids()) == MAX_RATERS


def test_heartbeats_are_frequent_enough_for_two_retries_before_the_deadline() -> None:
    assert SILENCE_US == HEARTBEAT_MS * 1000 * 3
    assert 3 * DispatchSettings().attempt_timeout_us < DispatchSettings().deadline_us
    assert DispatchSettings().deadline_us > 2 * SILENCE_US


def test_a_request_is_turned_away_unread_exactly_when_submitting_it_would_be_refused() -> None:
    dispatch = dispatch_with(b"r", settings=replace(SETTINGS, max_queued=2))
    for _ in range(2):
        assert dispatch.turn_away() is None
        assert dispatch.submit(request(), 0) is None
    turned_away = dispatch.turn_away()
    refused = dispatch.submit(request(), 0)
    assert refused is not None
    assert refused.code == Overloaded.code
    assert turned_away == refused.body


def test_who_is_turned_away_counts_as_refused() -> None:
    dispatch = dispatch_with(b"r", settings=replace(SETTINGS, max_queued=1))
    assert dispatch.turn_away() is None
    assert not dispatch._admission.refused
    dispatch.submit(request(), 0)
    assert dispatch.turn_away()
    assert dispatch._admission.refused
