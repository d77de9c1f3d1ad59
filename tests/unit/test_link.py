"""A rater's link: deadlines on its own clock, and answers only to the balancer that asked."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import zmq

from common.addresses import Address
from common.clock import DIFFERENCE_PERIOD_US
from common.wire import MAX_FRAME_BYTES, PROBE, Kind, WorkItem, decode, encode_beat, encode_work
from rater.link import Link
from rater.work.jobs import Job, Outcome

OK = Outcome(0, b"1", False)


class Pair:
    """A link, and the ROUTER socket that it joined."""

    def __init__(self) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.router = self.context.socket(zmq.ROUTER)
        self.router.setsockopt(zmq.RCVTIMEO, 10_000)
        self.router.setsockopt(zmq.LINGER, 0)
        port = self.router.bind_to_random_port("tcp://127.0.0.1")
        self.now_us = 0
        self.link = Link(
            self.context, Address("127.0.0.1", port), "r1", credit=8, clock_us=lambda: self.now_us
        )
        while not self.router.poll(0):
            self.link.socket.poll(10)  # in which a socket notices that it has a connection
        assert self.router.recv_multipart() == [b"r1", PROBE]

    def drain(self) -> None:
        while self.router.poll(0):
            self.router.recv_multipart()

    def deliver(self, frame: bytes, now_us: int) -> list[Job]:
        self.router.send_multipart((b"r1", frame))
        self.link.socket.poll(10_000)
        self.now_us = now_us
        return self.link.receive()

    def close(self) -> None:
        self.link.close()
        self.router.close()
        self.context.term()


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


def work(balancer_id: str, sent_us: int, seq: int, deadline_us: int) -> bytes:
    return encode_work(balancer_id, sent_us, [WorkItem(seq, "GetCost", b"{}", "", deadline_us)])


def test_a_deadline_is_moved_to_our_clock_by_the_least_difference_seen(pair: Pair) -> None:
    # The balancer's clock is 1,000,000 behind ours; the first message took 50 µs, the second 5.
    (job,) = pair.deliver(work("b1", 100, 1, 5_000), 1_000_150)
    assert job.deadline_us == 1_005_050
    assert pair.deliver(encode_beat("b1", 200), 1_000_205) == []
    (job,) = pair.deliver(work("b1", 300, 2, 5_000), 1_000_390)
    assert job.deadline_us == 1_005_005


def test_work_that_waited_while_we_were_stopped_is_late(pair: Pair) -> None:
    pair.deliver(encode_beat("b1", 0), 0)
    (job,) = pair.deliver(work("b1", 1_000, 1, 6_000), 9_000_000)
    assert job.deadline_us == 6_000


def test_an_estimate_that_was_wrong_is_over_after_two_periods(pair: Pair) -> None:
    pair.deliver(encode_beat("b1", 0), 0)
    paused_us = 60_000_000  # the balancer's machine stood still, and so did its clock
    jobs = []
    for sent_us in range(1_000_000, 3 * DIFFERENCE_PERIOD_US, 1_000_000):
        jobs += pair.deliver(work("b1", sent_us, 1, sent_us + 5_000_000), sent_us + paused_us)
    assert jobs[0].deadline_us < 10_000_000 + 1_000_000
    assert jobs[-1].deadline_us - pair.now_us == 5_000_000


def test_replies_too_large_for_one_message_go_out_as_several(pair: Pair) -> None:
    (job,) = pair.deliver(work("b1", 0, 1, 9), 1)
    for seq in range(12):
        job.origin.reply(seq, Outcome(0, bytes(2 * 1024 * 1024), False))
    pair.link.flush()
    rows = []
    while len(rows) < 12:
        frame = pair.router.recv_multipart()[1]
        assert len(frame) < MAX_FRAME_BYTES
        rows += decode(frame)[1][1]
    assert [row[0] for row in rows] == list(range(12))


def test_a_restarted_balancer_has_a_clock_of_its_own_and_never_gets_its_predecessors_answers(
    pair: Pair,
) -> None:
    (old,) = pair.deliver(work("b1", 5_000, 1, 9_000), 5_010)
    (new,) = pair.deliver(work("b2", 100, 1, 400), 6_000_120)
    assert new.deadline_us == 6_000_420
    old.origin.reply(old.seq, Outcome(0, b'"for b1"', False))
    new.origin.reply(new.seq, OK)
    pair.link.flush()
    kind, fields = decode(pair.router.recv_multipart()[1])
    assert kind is Kind.DONE
    assert fields == ["b2", [(1, 0, b"1", False)], 0]
    assert not pair.router.poll(50)


def test_tokens_differ_between_balancers_and_between_requests(pair: Pair) -> None:
    jobs = [pair.deliver(work(balancer, 0, seq, 9), 1)[0] for balancer in ("b1", "b2") for seq in (1, 2)]
    assert len({job.token for job in jobs}) == 4
    again = pair.deliver(work("b2", 0, 2, 9), 1)[0]
    assert again.token == jobs[-1].token


def test_frames_that_are_not_messages_are_ignored(pair: Pair) -> None:
    assert pair.deliver(b"\xff\x00", 1) == []
    assert len(pair.deliver(work("b1", 0, 1, 9), 1)) == 1
