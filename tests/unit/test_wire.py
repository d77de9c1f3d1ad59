"""The messages between balancer and raters: what goes in comes out, and nothing else is accepted."""

from __future__ import annotations

from contextlib import suppress

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import wire
from common.wire import Kind, Reply, WireError, WorkItem, decode, encode_done, encode_work

uint = st.integers(0, 2**63)
items = st.lists(
    st.builds(WorkItem, uint, st.text(), st.binary(), st.text(), st.integers(-(2**63), 2**63 - 1))
)
replies = st.lists(st.builds(Reply, uint, st.integers(-(2**31), 0), st.binary(), st.booleans()))


@given(st.text(), uint, items)
def test_work_arrives_as_it_was_sent(balancer_id: str, now_us: int, work: list[WorkItem]) -> None:
    kind, fields = decode(wire.encode_work(balancer_id, now_us, work))
    assert kind is Kind.WORK
    assert fields == [balancer_id, now_us, [tuple(item) for item in work]]


@given(st.text(), uint, items, replies)
def test_messages_with_many_rows_are_the_same_msgpack_as_the_others(
    balancer_id: str, now_us: int, work: list[WorkItem], done: list[Reply]
) -> None:
    assert wire.encode_work(balancer_id, now_us, work) == msgpack.packb((1, balancer_id, now_us, work))
    assert wire.encode_done(balancer_id, done) == msgpack.packb((5, balancer_id, done, 0))


@given(st.text(), replies)
def test_replies_arrive_as_they_were_sent(balancer_id: str, done: list[Reply]) -> None:
    kind, fields = decode(wire.encode_done(balancer_id, done))
    assert kind is Kind.DONE
    assert fields == [balancer_id, [tuple(reply) for reply in done], 0]


def test_the_small_messages_arrive_as_they_were_sent() -> None:
    assert decode(wire.encode_beat("b", 7)) == (Kind.BEAT, ["b", 7])
    assert decode(wire.encode_drained("b")) == (Kind.DRAINED, ["b"])
    assert decode(wire.encode_state("r", 5, 2)) == (Kind.STATE, [wire.PROTOCOL, "r", 5, 2])
    assert decode(wire.encode_leave()) == (Kind.LEAVE, [])
    assert decode(wire.encode_goodbye()) == (Kind.GOODBYE, [])


@pytest.mark.parametrize(
    "message",
    [
        None,
        5,
        "x",
        [],
        {},
        [0],
        [99],
        [True],
        [[1]],
        [{}],
        ["WORK"],
        [int(Kind.WORK)],
        [int(Kind.WORK), "b", 1, {}],
        [int(Kind.WORK), "b", 1, [[1, "m", "not bytes", "", 0]]],
        [int(Kind.WORK), "b", 1, [[1, "m", b"", ""]]],
        [int(Kind.WORK), "b", 1, [5]],
        [int(Kind.DONE), "b", [[1, 0, b"", 1]], 0],
        [int(Kind.DONE), [[1, 0, b"", True]], 0],
        [int(Kind.STATE), 1, "n", True, 0],
        [int(Kind.LEAVE), 1],
    ],
)
def test_what_is_not_a_message_is_refused(message: object) -> None:
    with pytest.raises(WireError):
        decode(msgpack.packb(message))


@given(st.binary())
def test_any_bytes_give_a_message_or_a_wire_error(frame: bytes) -> None:
    with suppress(WireError):
        kind, fields = decode(frame)
        assert kind in Kind
        assert isinstance(fields, list)


def test_a_frame_over_the_limit_is_refused() -> None:
    with pytest.raises(WireError, match="the limit is"):
        decode(bytes(wire.MAX_FRAME_BYTES + 1))


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2**63), st.text(max_size=40), st.binary(max_size=300), st.text(max_size=300)
        ),
        max_size=20,
    ),
    st.integers(0, 2**62),
)
def test_the_bytes_are_those_that_msgpack_makes(rows: list[tuple[int, str, bytes, str]], now_us: int) -> None:
    items = [WorkItem(*row, now_us) for row in rows]
    assert encode_work("id", now_us, items) == msgpack.packb((1, "id", now_us, items))
    replies = [Reply(seq, -code, body, bool(code % 2)) for code, (seq, _, body, _) in enumerate(rows)]
    assert encode_done("id", replies) == msgpack.packb((5, "id", replies, 0))
