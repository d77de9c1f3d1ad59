"""A balancer's own work: JSON-RPC in and out, dispatch, and the messages between it and its raters."""

from __future__ import annotations

from typing import Final

from pytest_benchmark.fixture import BenchmarkFixture

from balancer.actions import Request
from balancer.dispatch import Dispatch, DispatchSettings
from common.methods import BY_NAME, Method
from common.rpc.jsonrpc import Session
from common.wire import Reply, WorkItem, decode, encode_done, encode_work
from loadtests.micro.samples import ROUND, for_each, params, requests, rpc_messages

BATCH: Final = 40
"""Requests in one message: some two connections' worth of 16 in flight each, and a bit."""

BODY: Final = b'{"TOR":0,"CstmId":"bench","Timespans":[' + b"x" * 400 + b"]}"
SETTINGS: Final = DispatchSettings(deadline_us=5_000_000, attempt_timeout_us=1_500_000, max_queued=10_000)
RATERS: Final = (b"a", b"b")


def test_session_feed_and_answer(benchmark: BenchmarkFixture) -> None:
    messages = rpc_messages("GetCost")
    blocks = [b"".join(messages[at : at + 16]) for at in range(0, ROUND, 16)]
    session = Session()

    def serve(block: bytes) -> None:
        for call in session.feed(block):
            session.answer(call.slot, BODY)
        session.take_output()

    benchmark(for_each(serve, blocks))


def test_session_fed_one_by_one(benchmark: BenchmarkFixture) -> None:
    session = Session()

    def serve(message: bytes) -> None:
        [call] = session.feed(message)
        session.answer(call.slot, BODY)
        session.take_output()

    benchmark(for_each(serve, rpc_messages("GetCost")))


def _ignore(code: int, body: bytes, replayed: bool) -> None:
    pass


def test_dispatch_submit_flush_and_replies(benchmark: BenchmarkFixture) -> None:
    dispatch = Dispatch(SETTINGS)
    dispatch.tick(0)
    for rater in RATERS:
        dispatch.state(rater, rater.decode(), 1000, 1, 0)
    texts = [params(each) for each in requests("GetCost")]
    batches = [texts[at : at + BATCH] for at in range(0, ROUND, BATCH)]

    def serve(batch: list[bytes]) -> None:
        for text in batch:
            dispatch.submit(Request("GetCost", text, "", _ignore), 1)
        for send in dispatch.flush(2):
            dispatch.replies(send.rater_id, [(item.seq, 0, BODY, False) for item in send.items], 3)

    benchmark(for_each(serve, batches))


class _Sink:
    def answer(self, slot: int, code: int, body: bytes) -> None:
        pass


def test_dispatch_submit_all_flush_and_replies(benchmark: BenchmarkFixture) -> None:
    """As the TCP gateway does it: what one read of a connection held."""
    dispatch = Dispatch(SETTINGS)
    dispatch.tick(0)
    for rater in RATERS:
        dispatch.state(rater, rater.decode(), 1000, 1, 0)
    method, sink = BY_NAME["GetCost"], _Sink()
    calls = [(slot, method, params(each)) for slot, each in enumerate(requests("GetCost"))]
    reads = [calls[at : at + 16] for at in range(0, ROUND, 16)]

    def serve(read: list[tuple[int, Method, bytes]]) -> None:
        dispatch.submit_all(read, sink, 1)
        for send in dispatch.flush(2):
            dispatch.replies(send.rater_id, [(item.seq, 0, BODY, False) for item in send.items], 3)

    benchmark(for_each(serve, reads))


def test_work_encoded_and_decoded(benchmark: BenchmarkFixture) -> None:
    items = [
        WorkItem(1000 + at, "GetCost", params(each), "", 10**12)
        for at, each in enumerate(requests("GetCost"))
    ]
    batches = [items[at : at + BATCH] for at in range(0, ROUND, BATCH)]
    benchmark(for_each(lambda batch: decode(encode_work("balancer", 10**12, batch)), batches))


def test_replies_encoded_and_decoded(benchmark: BenchmarkFixture) -> None:
    replies = [Reply(1000 + at, 0, BODY, False) for at in range(ROUND)]
    batches = [replies[at : at + BATCH] for at in range(0, ROUND, BATCH)]
    benchmark(for_each(lambda batch: decode(encode_done("balancer", batch)), batches))
