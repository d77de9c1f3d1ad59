"""`HOST:PORT` as it is written and read."""

from __future__ import annotations

import pytest

from common.addresses import Address, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:2001", Address("127.0.0.1", 2001)),
        ("localhost:0", Address("localhost", 0)),
        ("[::1]:65535", Address("::1", 65535)),
        ("[::]:8000", Address("::", 8000)),
    ],
)
def test_an_address_is_read_and_written_the_same(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    ["", "2001", ":2001", "[]:1", "::1:2001", "host:", "host:x", "host:65536", "host:-1", "host:١", "a b:1"],
)
def test_what_is_no_address_is_refused_with_what_was_expected(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|brackets"):
        parse_address(text)
