"""The fuzz target of HTTP connections: any bytes, cut in any way, answered at once or later."""

from __future__ import annotations

from balancer.http.message import CONTINUE, Request
from balancer.http.reader import MAX_BODY_BYTES, MAX_HEAD_BYTES
from tests.fuzz.jsonrpc_targets import cut
from tests.unit.http_bench import Bench

MOST_ROUNDS = 10_000
"""No input that is tried asks for so many responses."""


class _Service(Bench):
    def __init__(self, *, at_once: bool) -> None:
        self._at_once = at_once
        super().__init__()

    def serve(self, request: Request) -> None:
        self.served.append(request)
        if self._at_once:
            self.answer()


def converse(data: bytes) -> None:
    """The first bytes say how the rest is cut."""
    pieces, stream = cut(data)
    served, output = _serve(pieces, at_once=True)
    # Neither where it was cut is anything that one could tell from the responses, nor when they were ready.
    assert (served, output) == _serve([stream], at_once=True)
    assert (served, output) == _serve(pieces, at_once=False)
    # Each request has its response, in order; a refusal may be the last.
    statuses = [int(part[:3]) for part in output.split(b"HTTP/1.1 ")[1:]]
    assert statuses[: len(served)] == [200] * len(served)
    assert statuses[len(served) :] in ([], [400], [413], [431])
    for _, target, body, headers in served:
        assert len(body) <= MAX_BODY_BYTES
        assert len(target) + sum(map(len, headers)) <= MAX_HEAD_BYTES


def _serve(
    pieces: list[bytes], *, at_once: bool
) -> tuple[list[tuple[bytes, bytes, bytes, tuple[bytes, ...]]], bytes]:
    bench = _Service(at_once=at_once)
    answered = 0

    def go_on() -> None:
        nonlocal answered
        for _ in range(MOST_ROUNDS):
            bench.settle()
            if at_once or answered == len(bench.served):
                return
            bench.answer(answered)
            answered += 1
        raise AssertionError("it never comes to an end")

    for piece in pieces:
        bench.send(piece)
        go_on()
    bench.connection.eof_received()
    go_on()
    assert bench.transport.closed or bench.transport.eof, "the connection does not end"
    served = [
        (request.verb, request.target, request.body, tuple(b"%b%b" % header for header in request.headers))
        for request in bench.served
    ]
    return served, bench.output.replace(CONTINUE, b"")  # a body that is here already is not asked for
