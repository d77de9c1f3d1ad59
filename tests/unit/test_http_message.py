"""Responses as bytes."""

from __future__ import annotations

import pytest

from balancer.http.message import Request, encode_date, encode_response


def test_a_date_is_written_as_http_wants_it() -> None:
    assert encode_date(784_111_777.9) == b"Sun, 06 Nov 1994 08:49:37 GMT"


@pytest.mark.parametrize(
    ("status", "body", "bare", "head"),
    [
        (200, b"{}", False, b"200 OK|date: now|content-type: application/json|content-length: 2|a: b||{}"),
        (200, b"{}", True, b"200 OK|date: now|content-type: application/json|content-length: 2|a: b||"),
        (404, b"", False, b"404 Not Found|date: now|content-length: 0|a: b||"),
        (204, b"", False, b"204 No Content|date: now|a: b||"),
    ],
)
def test_responses_say_how_long_they_are(status: int, body: bytes, bare: bool, head: bytes) -> None:
    got = encode_response(status, b"now", body, b"a: b\r\n", bare, False)
    assert got == b"HTTP/1.1 " + head.replace(b"|", b"\r\n")
    closing = encode_response(status, b"now", body, b"a: b\r\n", bare, True)
    assert closing == got.replace(b"a: b\r\n", b"a: b\r\nconnection: close\r\n")


def test_headers_are_found_by_name_in_any_case() -> None:
    class Nobody:
        def respond(self, request: Request, status: int, body: bytes, more: bytes) -> None:
            raise NotImplementedError

    request = Request(Nobody(), b"GET", b"/", [(b"A-B", b"1"), (b"a-b", b"2"), (b"ab", b"3")])
    assert request.values(b"a-b") == [b"1", b"2"]
