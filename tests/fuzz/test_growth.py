"""Time grows no faster than the input, whatever it is made of: an eight times longer one may take
some eight times as long, not the sixty-four times of a loop in a loop."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import suppress
from time import thread_time

import pytest

from balancer.http.query import parse_body, parse_query
from common.errors import RatelError
from common.methods import BY_NAME
from common.rpc.jsonrpc import DEFAULT_LIMITS, Session
from common.rpc.jsonrpc_replies import NotAReply, ReplyReader
from common.wire import WireError, decode
from rater.descriptor_reader import parse_descriptor
from tests.unit.tariff_sample import RATES, read

pytestmark = pytest.mark.alone

LENGTH_BYTES = 4000
TIMES = 8
LEAST_RATIO_OF_A_SQUARE = 28
"""Between 8 and 64, with room for what a busy machine adds to either."""


def session(data: bytes) -> None:
    served = Session(DEFAULT_LIMITS)
    calls = served.feed(data)
    while served.more:
        calls += served.feed(b"")
    served.feed_eof()
    for call in calls:
        served.answer(call.slot, b"1")
    served.take_output()


def frame(data: bytes) -> None:
    decode(b"\x94\x01\xa1b\x01\xdd" + len(data).to_bytes(4, "big") + data)


PARSERS: dict[str, tuple[Callable[[bytes], object], tuple[tuple[bytes, bytes], ...]]] = {
    "session": (
        session,
        (
            *(
                (b"", b"{}"),
                (b"", b'{"id":1,"method":"Responder.Get"}'),
                (b"", b"[" * 3 + b"]" * 3),
                (b"", b"["),
            ),
            *(
                (b'{"method":"', b"\\u00e9"),
                (b"", b'{"a\n'),
                (b"", b'"'),
                (b"[", b"{},"),
                (b'{"id":[', b'"}{",'),
            ),
            *((b'{"params":[', b"{},"), (b"", b'{"method":"\x7f"}\n'), (b"", b" \n"), (b"", b"x\n")),
        ),
    ),
    "replies": (
        lambda data: list(ReplyReader().feed(data)),
        ((b"", b'{"id":1,"result":1.5}'), (b'{"id":1,"result":[', b"1.5,"), (b'{"id":1,"result":"', b"\\n")),
    ),
    "query": (
        parse_query,
        (
            *((b"", b"@dest=1@"), (b"", b"&"), (b"dest=", b"%25"), (b"dest=", b"%"), (b"dest=", b"+")),
            *((b"", b"@"), (b"", b"x=1&"), (b"", b"%64"), (b"", b"dest"), (b"amount=", b"1")),
        ),
    ),
    "body": (
        lambda data: parse_body(data, "application/json"),
        (
            *(
                (b"{", b'"a":{},'),
                (b'{"a":[', b"[],"),
                (b"", b'{"a":'),
                (b'{"subj":"', b"\\u00e9"),
                (b"", b" "),
            ),
            *((b'{"amount":', b"1"), (b'{"a":[', b"1,"), (b"{", b'"subj":"x",'), (b'{"a":[', b"[[]],")),
        ),
    ),
    "frame": (frame, tuple((b"", unit) for unit in (b"\x90", b"\x91", b"\xc0", b"\x80", b"\x95\x01\xa1m"))),
    "descriptor": (
        lambda data: parse_descriptor(data, BY_NAME["DebitBalance"]),
        (
            *((b'{"CstmId":"', b"x"), (b"{", b'"x":0,'), (b'{"Amount":', b"1"), (b'{"Amount":1', b"0e1")),
            *((b'{"Subject":"', b"\\\\"), (b"{", b'"Subject":"a",'), (b"", b"["), (b'{"CstmId":"', b'"')),
        ),
    ),
    "loader": (
        lambda data: read({RATES: data}),
        (
            *((b"[", b"{},"), (b"[\n", b"5,\n"), (b"", b"["), (b'[{"a":"', b"x"), (b"[{", b'"Price":1,')),
            *((b"", b"\n"), (b'[{"ActivationPeriods":[', b'{"Intervals":[]},'), (b'["', b"\\u00e9")),
        ),
    ),
}
CASES = [(name, head, unit) for name, (_, shapes) in PARSERS.items() for head, unit in shapes]
ENDINGS = (b"", b"}", b"]}", b'"}')


@pytest.mark.parametrize(("name", "head", "unit"), CASES)
def test_an_input_eight_times_as_long_takes_no_sixty_four_times_as_long(
    name: str, head: bytes, unit: bytes
) -> None:
    run = PARSERS[name][0]

    def time_s(times: int) -> float:
        texts = [head + unit * (times * LENGTH_BYTES // len(unit)) + ending for ending in ENDINGS]
        return _time_s(run, texts)

    # What is done in no time has no ratio: a millisecond more on both sides hides no square of it.
    ratios = []
    for _ in range(3):  # a machine may be busy with something else once, and twice
        ratios.append((time_s(TIMES) + 0.001) / (time_s(1) + 0.001))
        if ratios[-1] < LEAST_RATIO_OF_A_SQUARE:
            return
    pytest.fail(f"{TIMES} times the input took {ratios} times the time")


def _time_s(run: Callable[[bytes], object], texts: list[bytes]) -> float:
    gc.collect()
    gc.disable()  # how often the collector looks through what is there is not the parser's doing
    try:
        start = thread_time()
        for text in texts:
            with suppress(RatelError, WireError, NotAReply):
                run(text)
        return thread_time() - start
    finally:
        gc.enable()


def test_a_loop_in_a_loop_is_told() -> None:
    def square(data: bytes) -> None:
        for _ in range(len(data) // 20):
            sum(data)

    texts = [[b"x" * LENGTH_BYTES * times] for times in (1, TIMES)]
    short_s, long_s = (_time_s(square, text) for text in texts)
    assert (long_s + 0.001) / (short_s + 0.001) > LEAST_RATIO_OF_A_SQUARE
