"""From bytes to requests: what is taken, what is refused, whatever way the bytes are cut."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.http.message import Refusal, Request
from balancer.http.reader import MAX_BODY_BYTES, MAX_HEAD_BYTES, PIECE_BYTES, Awaits, RequestReader


class Collector:
    def __init__(self) -> None:
        self.taken: list[Request] = []
        self.refusals: list[Refusal] = []
        self.expected = 0

    def take(self, request: Request) -> None:
        self.taken.append(request)

    def refuse(self, refusal: Refusal) -> None:
        self.refusals.append(refusal)

    def expect(self) -> None:
        self.expected += 1

    def respond(self, request: Request, status: int, body: bytes, more: bytes) -> None:
        raise NotImplementedError


def read(data: bytes, size: int = PIECE_BYTES) -> Collector:
    collector = Collector()
    reader = RequestReader(collector)
    for start in range(0, len(data), size):
        reader.feed(data[start : start + size])
    return collector


def outcome(collector: Collector) -> tuple[list[tuple[Any, ...]], list[int]]:
    requests = [(r.verb, r.target, r.headers, r.body, r.keep_alive) for r in collector.taken]
    return requests, [refusal.status for refusal in collector.refusals]


POST = b"POST /x HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n"
NEXT = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    "raw",
    [
        POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        CHUNKED + b"Content-Length: 3\r\n\r\n0\r\n\r\n",
        POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        POST + b"Content-Length: 3, 3\r\n\r\nabc",
        POST + b"Content-Length: +3\r\n\r\nabc",
        POST + b"Content-Length: -3\r\n\r\nabc",
        POST + b"Content-Length: 0x3\r\n\r\nabc",
        POST + b"Content-Length: 3_0\r\n\r\nabc",
        POST + b"Content-Length:\r\n\r\n",
        POST + b"Content-Length: 99999999999999999999999\r\n\r\nabc",
        POST + b"Content-Length : 3\r\n\r\nabc",
        POST + b" Content-Length: 3\r\n\r\nabc",
        POST + b"X: a\r\n folded\r\n\r\n",
        POST + b"X: a\r\n\tContent-Length: 3\r\n\r\nabc",
        POST + b"X: a\nContent-Length: 3\r\n\r\nabc",
        POST + b"X: a\rContent-Length: 3\r\n\r\nabc",
        POST + b"X: a\0b\r\n\r\n",
        POST + b"X\0: a\r\n\r\n",
        POST + b": a\r\n\r\n",
        POST + b"A B: a\r\n\r\n",
        POST + b"no colon\r\n\r\n",
        POST.replace(b"\r\n", b"\n") + b"\n",
        POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: identity\r\n\r\nabc",
        POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked;x\r\n\r\n0\r\n\r\n",
        POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
        POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding\0: chunked\r\n\r\n0\r\n\r\n",
        CHUNKED + b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        CHUNKED + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        CHUNKED + b"\r\n-1\r\na\r\n0\r\n\r\n",
        CHUNKED + b"\r\n0x1\r\na\r\n0\r\n\r\n",
        CHUNKED + b"\r\n1 \r\na\r\n0\r\n\r\n",
        CHUNKED + b"\r\n 1\r\na\r\n0\r\n\r\n",
        CHUNKED + b"\r\n1\na\r\n0\r\n\r\n",
        CHUNKED + b"\r\n1\r\nab\r\n0\r\n\r\n",
        CHUNKED + b"\r\n\r\na\r\n0\r\n\r\n",
        CHUNKED + b"\r\n10000000000000001\r\na\r\n0\r\n\r\n",
        CHUNKED + b"\r\n1\r\na\n0\r\n\r\n",
        CHUNKED + b"\r\n1;a\nb\r\na\r\n0\r\n\r\n",
        CHUNKED + b"\r\n0\r\nbad trailer\r\n\r\n",
        CHUNKED + b"\r\n0\r\nContent-Length: 7\r\n\r\n",
        POST + b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n\r\nabc",
        CHUNKED + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n0\r\n\r\n",
        b"CONNECT h:443 HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
        b"GET /x HTTP/1.1 \r\n\r\n",
        b"GET /x HTTP/1.2\r\n\r\n",
        b"GET /x HTTP/11\r\n\r\n",
        b"GET /x http/1.1\r\n\r\n",
        b"GET /x y HTTP/1.1\r\n\r\n",
        b"GET\t/x HTTP/1.1\r\n\r\n",
        b"GET /\0 HTTP/1.1\r\n\r\n",
        b"GET /caf\xc3\xa9 HTTP/1.1\r\n\r\n",
        b"GET x HTTP/1.1\r\n\r\n",
        b"get /x HTTP/1.1\r\n\r\n",
        b"NONSENSE /x HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
@pytest.mark.parametrize("size", [1, PIECE_BYTES])
def test_what_could_be_read_in_two_ways_is_refused_and_nothing_after_it_is_taken(
    raw: bytes, size: int
) -> None:
    collector = read(raw + NEXT, size)
    assert outcome(collector) == ([], [400])
    error = json.loads(collector.refusals[0].body)["error"]
    assert (error["code"], error["name"], error["data"]) == (0, "bad_http", {})


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        (POST + b"Content-Length: 3\r\n\r\nabc", b"abc"),
        (POST + b"content-length: 0\r\n\r\n", b""),
        (POST + b"Content-Length: 03\r\n\r\nabc", b"abc"),
        (POST + b"\r\n", b""),
        (CHUNKED + b"\r\n3\r\nabc\r\n0\r\n\r\n", b"abc"),
        (CHUNKED + b'\r\n03;ext=1;b="x"\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n', b"abc0123456789"),
        (POST + b"Transfer-Encoding: Chunked\r\n\r\n0\r\n\r\n", b""),
        (b"\r\n\r\n" + POST + b"\r\n", b""),
    ],
)
@pytest.mark.parametrize("size", [1, 7, PIECE_BYTES])
def test_a_body_is_taken_whatever_way_it_comes(raw: bytes, body: bytes, size: int) -> None:
    first, second = read(raw + NEXT, size).taken
    assert (first.verb, first.target, first.body) == (b"POST", b"/x", body)
    assert (second.verb, second.target, second.body) == (b"GET", b"/smuggled", b"")


def test_trailers_mean_nothing() -> None:
    raw = CHUNKED + b"\r\n1\r\na\r\n0\r\nIdempotency-Key: k\r\nX: y\r\n\r\n"
    [request, _] = read(raw + NEXT).taken
    assert request.headers == [(b"Host", b"x"), (b"Transfer-Encoding", b"chunked")]
    assert request.body == b"a"


@pytest.mark.parametrize(
    ("raw", "keep_alive"),
    [
        (b"GET /x HTTP/1.1\r\n\r\n", True),
        (b"GET /x HTTP/1.1\r\nConnection: keep-alive\r\n\r\n", True),
        (b"GET /x HTTP/1.1\r\nConnection: Close\r\n\r\n", False),
        (b"GET /x HTTP/1.1\r\nConnection: x, close\r\n\r\n", False),
        (b"GET /x HTTP/1.0\r\n\r\n", False),
        (b"GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", False),
        (b"GET /x\r\n\r\n", False),
    ],
)
def test_which_requests_are_the_last_ones(raw: bytes, keep_alive: bool) -> None:
    collector = read(raw + NEXT)
    assert [request.keep_alive for request in collector.taken] == ([True, True] if keep_alive else [False])
    assert collector.refusals == []


def test_an_upgrade_is_declined_and_what_follows_is_read() -> None:
    first = b"GET /a HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n"
    collector = read(first + NEXT + first + NEXT)
    assert [request.target for request in collector.taken] == [b"/a", b"/smuggled"] * 2


# --- how much ---------------------------------------------------------------------------------------


def head_of(size: int, of_url: int = 0) -> bytes:
    """A request whose URL and headers count that many bytes."""
    target = b"/" + b"u" * of_url
    rest = size - len(target)
    lines = []
    while rest:
        line = min(rest, 1000)
        if rest - line < 6:
            line = rest
        lines.append(b"n: " + b"v" * (line - 5) + b"\r\n")
        rest -= line
    return b"GET " + target + b" HTTP/1.1\r\n" + b"".join(lines) + b"\r\n"


@pytest.mark.parametrize("of_url", [0, 20_000])
@pytest.mark.parametrize("size", [PIECE_BYTES, 100])
def test_a_head_may_be_so_large_and_no_larger(of_url: int, size: int) -> None:
    assert [len(read(head_of(MAX_HEAD_BYTES, of_url), size).taken)] == [1]
    assert outcome(read(head_of(MAX_HEAD_BYTES + 1, of_url), size)) == ([], [431])


@pytest.mark.parametrize(
    "start",
    [
        b"GET /",
        b"GET /x HTTP/1.1\r\nname: ",
        b"GET /x HTTP/1.1\r\nname",
        CHUNKED + b"\r\n0\r\ntrailer: ",
        CHUNKED + b"\r\n1;extension=",
        NEXT + b"GET /",
    ],
    ids=["url", "value", "name", "trailer", "extension", "second"],
)
def test_what_never_ends_is_refused_before_it_takes_memory(start: bytes) -> None:
    collector = Collector()
    reader = RequestReader(collector)
    tracemalloc.start()
    try:
        reader.feed(start)
        fed = 0
        while not collector.refusals:
            reader.feed(b"x" * PIECE_BYTES)
            fed += PIECE_BYTES
            assert fed <= MAX_HEAD_BYTES + 2 * PIECE_BYTES
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert collector.refusals[0].status == 431
    assert peak < 10 * MAX_HEAD_BYTES


def test_empty_headers_count_too() -> None:
    assert outcome(read(b"GET /x HTTP/1.1\r\n" + b"a:\r\n" * 8000 + b"\r\n")) == ([], [431])


@pytest.mark.parametrize("chunk", [1, 1000, 65_536])
def test_a_body_may_be_so_large_and_no_larger(chunk: int) -> None:
    def chunked(size: int) -> bytes:
        sizes = [chunk] * (size // chunk) + ([size % chunk] if size % chunk else [])
        return b"".join(b"%x\r\n%b\r\n" % (each, b"x" * each) for each in sizes) + b"0\r\n\r\n"

    [request] = read(CHUNKED + b"\r\n" + chunked(MAX_BODY_BYTES)).taken
    assert len(request.body) == MAX_BODY_BYTES
    assert outcome(read(CHUNKED + b"\r\n" + chunked(MAX_BODY_BYTES + 1))) == ([], [413])


def test_a_body_that_is_announced_too_large_is_refused_before_it_comes() -> None:
    head = POST + b"Content-Length: %d\r\n\r\n"
    assert outcome(read(head % (MAX_BODY_BYTES + 1))) == ([], [413])
    [request] = read(head % MAX_BODY_BYTES + b"x" * MAX_BODY_BYTES).taken
    assert len(request.body) == MAX_BODY_BYTES


def test_it_is_known_what_comes_next() -> None:
    reader = RequestReader(Collector())
    seen = [reader.awaits]
    for part in (b"\r", b"\nPO", b"ST / HTTP/1.1\r\nContent-Length: 3\r\n", b"\r\n", b"ab", b"c", b"G"):
        reader.feed(part)
        seen.append(reader.awaits)
    assert seen[0] is Awaits.FIRST
    assert seen[2:] == [Awaits.HEAD, Awaits.HEAD, Awaits.BODY, Awaits.BODY, Awaits.NEXT, Awaits.HEAD]


# --- any input --------------------------------------------------------------------------------------

PARTS = st.sampled_from(
    [
        *(
            b"GET /a HTTP/1.1\r\n",
            b"POST /b?c=%20 HTTP/1.1\r\n",
            b"HEAD /d HTTP/1.0\r\n",
            b"GET http://h/e HTTP/1.1\r\n",
        ),
        *(
            b"Host: x\r\n",
            b"X:\r\n",
            b"Content-Length: 3\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Connection: close\r\n",
        ),
        *(b"Expect: 100-continue\r\n", b"Connection: Upgrade\r\nUpgrade: h2c\r\n", b"\r\n", b"\r\n", b"\r\n"),
        *(
            b"abc",
            b"3\r\nabc\r\n",
            b"0\r\n\r\n",
            b"0\r\nT: x\r\n\r\n",
            b"1;e\r\n",
            b"\n",
            b"\r",
            b" ",
            b"\0",
            b"\xff",
        ),
    ]
)


@given(st.lists(PARTS, max_size=14).map(b"".join), st.integers(1, 40))
def test_requests_are_the_same_whatever_way_the_bytes_are_cut(raw: bytes, size: int) -> None:
    assert outcome(read(raw, size)) == outcome(read(raw))
