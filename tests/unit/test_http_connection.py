"""Order, backpressure, time limits and ends of one HTTP connection."""

from __future__ import annotations

import json
import logging

import pytest

from balancer.http.connection import LARGE_BYTES
from balancer.http.patience import KEEP_ALIVE_S, LINGER_S, READ_TIMEOUT_S
from balancer.http.reader import MAX_BODY_BYTES, PIECE_BYTES
from tests.unit.http_bench import DATE, STUCK_S, Bench


def get(target: str, *headers: str, version: str = "1.1", verb: str = "GET") -> bytes:
    lines = [f"{verb} {target} HTTP/{version}", "Host: x", *headers, "", ""]
    return "\r\n".join(lines).encode()


def many(prefix: str, count: int) -> bytes:
    return b"".join(get(f"/{prefix}{number}") for number in range(count))


def names(prefix: str, count: int) -> list[bytes]:
    return [f"/{prefix}{number}".encode() for number in range(count)]


def test_a_response_has_a_date_a_length_and_a_type_and_no_more() -> None:
    bench = Bench()
    bench.send(get("/now"))
    assert bench.output == (
        b"HTTP/1.1 200 OK\r\ndate: %b\r\ncontent-type: application/json\r\ncontent-length: 6\r\n"
        b'about: /now\r\n\r\n"done"' % DATE
    )


# --- order ------------------------------------------------------------------------------------------


def test_pipelined_requests_are_served_one_after_the_other() -> None:
    bench = Bench()
    bench.send(get("/a") + get("/now1") + get("/b") + get("/now2"))
    assert bench.targets == [b"/a"]
    bench.answer()
    bench.settle()
    assert bench.targets == [b"/a", b"/now1", b"/b"]
    assert bench.answered == [b"/a", b"/now1"]
    bench.answer()
    bench.settle()
    assert bench.answered == [b"/a", b"/now1", b"/b", b"/now2"]
    assert not bench.transport.closed
    assert bench.transport.reading


def test_responses_that_are_ready_at_once_are_written_in_the_turn_in_which_the_requests_came() -> None:
    bench = Bench()
    bench.send(many("now", 20))
    assert bench.answered == names("now", 20)
    assert len(bench.transport.written) == 1
    bench.send(get("/a") + many("now", 20))
    bench.answer()
    assert len(bench.transport.written) == 2  # nothing is held back for others that may come
    bench.settle()
    assert bench.answered == [*names("now", 20), b"/a", *names("now", 20)]
    assert len(bench.transport.written) == 3


def test_a_long_pipeline_gets_one_piece_a_turn_and_is_not_read_meanwhile() -> None:
    bench = Bench()
    data = many("now", 1000)
    bench.send(data)
    assert 0 < len(bench.answered) < PIECE_BYTES / 20
    assert not bench.transport.reading
    assert bench.settle() >= len(data) // PIECE_BYTES
    assert bench.answered == names("now", 1000)
    assert bench.transport.reading


def test_no_more_is_read_while_a_request_waits_for_its_turn() -> None:
    bench = Bench()
    bench.send(get("/a"))
    assert bench.transport.reading
    bench.send(get("/b"))
    assert not bench.transport.reading
    bench.answer()
    bench.settle()
    assert bench.transport.reading


def test_of_a_long_pipeline_a_piece_is_parsed_and_the_rest_waits_as_bytes() -> None:
    bench = Bench()
    bench.send(many("a", 10_000))
    bench.settle()
    waiting = bench.connection._waiting
    assert waiting is not None
    assert len(waiting) < PIECE_BYTES / 20
    for _ in range(10_000):
        bench.answer()
        bench.settle()
    assert bench.answered == names("a", 10_000)


@pytest.mark.parametrize("size", [100_000, MAX_BODY_BYTES])
def test_a_large_body_takes_no_more_turns_than_a_small_one(size: int) -> None:
    bench = Bench()
    bench.send(get("/now", f"Content-Length: {size}", verb="POST") + b"x" * size)
    assert bench.settle() <= 2
    assert bench.served[0].body == b"x" * size
    assert bench.answered == [b"/now"]


# --- clients that do not read -----------------------------------------------------------------------


def test_who_does_not_read_gets_no_further_request_served() -> None:
    bench = Bench()
    bench.send(get("/a"))
    bench.connection.pause_writing()
    assert bench.times_behind == 1
    bench.send(get("/now1") + get("/now2"))
    bench.answer(0)
    bench.settle()
    assert bench.answered == [b"/a"]
    assert not bench.transport.reading
    bench.connection.resume_writing()
    bench.settle()
    assert bench.answered == [b"/a", b"/now1", b"/now2"]
    assert bench.transport.reading


def test_a_pause_within_a_piece_stops_the_rest_of_it() -> None:
    bench = Bench()
    write = bench.transport.write

    def write_and_pause(data: bytes) -> None:
        write(data)
        bench.connection.pause_writing()

    bench.transport.write = write_and_pause  # type: ignore[method-assign]
    bench.body = b"x" * (LARGE_BYTES + 1)
    bench.send(many("now", 20))
    bench.settle()
    assert bench.answered == [b"/now0"]
    bench.connection.resume_writing()
    bench.settle()
    assert bench.answered == [b"/now0", b"/now1"]


def test_who_never_reads_is_let_go(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.send(get("/now"))
    bench.connection.pause_writing()
    with caplog.at_level(logging.WARNING):
        bench.wait(STUCK_S - 1)
        assert not bench.transport.aborted
        bench.wait(1)
    assert bench.transport.aborted
    assert "peer=192.0.2.1:4711 does not read its responses, closing" in caplog.text


def test_who_reads_slowly_is_not_let_go() -> None:
    bench = Bench()
    for _ in range(5):
        bench.connection.pause_writing()
        bench.wait(STUCK_S - 1)
        bench.connection.resume_writing()
    assert not bench.transport.aborted


def test_who_never_reads_the_last_response_is_let_go() -> None:
    bench = Bench()
    bench.send(get("/now", "Connection: close"))
    assert bench.transport.closed
    bench.wait(STUCK_S + 1)
    assert bench.transport.aborted


# --- time -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "what"),
    [
        (b"", "no request arrived"),
        (b"G", "no request arrived"),
        (b"GET /now HTTP/1.1\r\nHost", "no request arrived"),
        (get("/now") + b"GE", "no request arrived"),
        (get("/now", "Content-Length: 3") + b"ab", "the body did not arrive"),
        (get("/now", "Transfer-Encoding: chunked") + b"1\r\nx\r\n", "the body did not arrive"),
    ],
)
def test_a_request_must_arrive_in_time(sent: bytes, what: str) -> None:
    bench = Bench()
    if sent:
        bench.send(sent)
    bench.wait(READ_TIMEOUT_S - 1)
    assert 408 not in bench.statuses
    bench.wait(3)
    assert bench.statuses[-1] == 408
    error = json.loads(bench.output.rpartition(b"\r\n\r\n")[2])["error"]
    assert (error["name"], error["code"]) == ("request_timeout", 0)
    assert what in error["message"]
    assert b"connection: close" in bench.output


def test_bytes_that_trickle_in_win_no_time() -> None:
    bench = Bench()
    for byte in b"GET /now HTTP/1.1\r\nHost: xxxxxxxxxxxxxx":
        if not bench.transport.eof:
            bench.send(bytes([byte]))
            bench.wait(1)
    assert bench.statuses == [408]


def test_a_head_has_its_time_from_its_beginning_however_long_the_pause_before_it_was() -> None:
    bench = Bench()
    bench.send(get("/now"))
    bench.wait(KEEP_ALIVE_S - 5)
    bench.send(b"GET /now2")
    bench.wait(READ_TIMEOUT_S - 2)
    bench.send(b" HTTP/1.1\r\n\r\n")
    assert bench.answered == [b"/now", b"/now2"]


def test_a_connection_without_requests_is_closed_in_silence() -> None:
    bench = Bench()
    bench.send(get("/now"))
    bench.wait(KEEP_ALIVE_S - 1)
    assert not bench.transport.closed
    bench.wait(3)
    assert bench.transport.closed
    assert bench.statuses == [200]


def test_a_request_that_is_being_served_has_no_limit_here() -> None:
    bench = Bench()
    bench.send(get("/a") + b"GET /half")
    bench.wait(10 * KEEP_ALIVE_S)
    bench.answer()
    assert bench.statuses == [200]
    bench.wait(READ_TIMEOUT_S - 1)
    assert not bench.transport.closed


# --- ends -------------------------------------------------------------------------------------------


def test_after_a_refusal_input_is_dropped_until_the_client_has_closed_too() -> None:
    bench = Bench()
    bench.send(b"nonsense\r\n\r\n")
    bench.settle()
    assert bench.statuses == [400]
    assert bench.transport.eof
    assert not bench.transport.closed
    bench.send(get("/now"))
    assert not bench.connection.eof_received()  # closes the transport
    assert bench.served == []


def test_a_client_that_does_not_close_after_a_refusal_is_left() -> None:
    bench = Bench()
    bench.send(b"nonsense\r\n\r\n")
    bench.settle()
    bench.wait(LINGER_S + 2)
    assert bench.transport.closed


def test_a_refusal_comes_after_the_responses_that_are_due() -> None:
    bench = Bench()
    bench.send(get("/a") + get("/b") + b"nonsense\r\n\r\n")
    bench.settle()
    assert bench.statuses == []
    for _ in range(2):
        assert not bench.transport.eof
        bench.answer()
        bench.settle()
    assert bench.statuses == [200, 200, 400]
    assert bench.transport.eof


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_after_the_last_request_by_its_own_word_nothing_is_served(version: str) -> None:
    bench = Bench()
    last = get("/last", "Connection: close") if version == "1.1" else get("/last", version="1.0")
    bench.send(get("/a") + last + get("/b"))
    for _ in range(2):
        assert not bench.transport.closed
        bench.answer()
        bench.settle()
    assert bench.answered == [b"/a", b"/last"]
    assert bench.output.count(b"connection: close\r\n") == 1
    assert bench.output.index(b"connection: close\r\n") > bench.output.index(b"/last")
    assert bench.transport.closed
    assert not bench.transport.eof


def test_http_1_0_ends_even_if_it_asks_not_to() -> None:
    bench = Bench()
    bench.send(get("/now", "Connection: keep-alive", version="1.0"))
    assert b"connection: close\r\n" in bench.output
    assert bench.transport.closed


def test_a_client_that_ends_its_sending_gets_what_is_due() -> None:
    bench = Bench()
    bench.send(get("/a") + get("/b")[:-2])
    assert bench.connection.eof_received()
    assert not bench.transport.closed
    bench.answer()
    bench.settle()
    assert bench.answered == [b"/a"]
    assert bench.transport.closed


def test_an_answer_after_the_end_is_dropped() -> None:
    bench = Bench()
    bench.send(get("/a") + get("/b"))
    bench.connection.connection_lost(None)
    bench.answer()
    bench.settle()
    assert bench.output == b""
    assert bench.targets == [b"/a"]
    assert bench.gone


def test_one_connection_too_many_is_told_so() -> None:
    bench = Bench(full=True)
    bench.settle()
    assert bench.statuses == [503]
    assert b"retry-after: 1\r\n" in bench.output
    bench.send(get("/now"))
    assert bench.served == []
    bench.wait(LINGER_S + 2)
    assert bench.transport.closed


# --- 100 Continue -----------------------------------------------------------------------------------

EXPECT = ("Content-Length: 3", "Expect: 100-Continue")
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def test_a_client_that_waits_for_our_word_gets_it() -> None:
    bench = Bench()
    bench.send(get("/now", *EXPECT, verb="POST"))
    assert bench.output == CONTINUE
    bench.send(b"abc")
    assert bench.statuses == [100, 200]
    assert bench.served[0].body == b"abc"


def test_our_word_comes_after_the_responses_that_are_due() -> None:
    bench = Bench()
    bench.send(get("/a") + get("/b") + get("/now", *EXPECT, verb="POST"))
    assert bench.output == b""
    bench.answer()
    bench.settle()
    assert bench.statuses == [200]
    bench.answer()
    bench.settle()
    assert bench.statuses == [200, 200, 100]
    bench.send(b"abc")
    assert bench.statuses == [200, 200, 100, 200]


def test_our_word_is_not_given_for_what_is_refused_or_here_already_or_to_http_1_0() -> None:
    bench = Bench()
    bench.send(get("/now", f"Content-Length: {MAX_BODY_BYTES + 1}", EXPECT[1], verb="POST"))
    bench.settle()
    assert bench.statuses == [413]
    bench = Bench()
    bench.send(get("/now", *EXPECT, verb="POST") + b"abc")
    assert bench.statuses == [200]
    bench = Bench()
    bench.send(get("/now", *EXPECT, verb="POST", version="1.0"))
    assert bench.statuses == []


# --- the end of the gateway -------------------------------------------------------------------------


def close(bench: Bench) -> None:
    bench.closing = True
    bench.connection.wind_up()
    bench.settle()


@pytest.mark.parametrize(
    ("before", "after", "answered"),
    [
        (get("/a"), b"", [b"/a"]),
        (get("/a") + get("/b"), b"", [b"/a", b"/b"]),
        (b"GE", b"T /a HTTP/1.1\r\n\r\n", [b"/a"]),
        (get("/a", "Content-Length: 3") + b"1", b"23", [b"/a"]),
        (b"", get("/a"), [b"/a"]),
    ],
)
def test_what_has_begun_is_finished_and_the_last_response_says_that_it_ends(
    before: bytes, after: bytes, answered: list[bytes]
) -> None:
    bench = Bench()
    if before:
        bench.send(before)
    close(bench)
    if after:
        bench.send(after + get("/too_late"))
    for _ in answered:
        assert not bench.transport.closed
        bench.answer()
        bench.settle()
    assert bench.answered == answered
    assert bench.output.count(b"connection: close\r\n") == 1
    assert bench.output.rpartition(b"HTTP/1.1")[2].count(b"connection: close\r\n") == 1
    assert bench.transport.closed


@pytest.mark.parametrize("served", [False, True])
def test_an_idle_connection_is_closed(served: bool) -> None:
    bench = Bench()
    if served:
        bench.send(get("/now"))
    close(bench)
    assert not bench.transport.closed
    bench.connection.end_if_idle()
    assert bench.transport.closed


def test_a_long_pipeline_ends_where_it_says_so() -> None:
    bench = Bench()
    bench.send(many("a", 1000))
    close(bench)
    while not bench.transport.closed:
        bench.answer()
        bench.settle()
    count = len(bench.answered)
    assert bench.answered == names("a", count)
    assert bench.output.count(b"connection: close\r\n") == 1
    assert b"connection: close\r\n" in bench.output.rpartition(b"HTTP/1.1")[2]
