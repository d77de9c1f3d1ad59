"""A JSON list of any length in pieces of whole elements, so that a large file needs little memory.

Where a piece may end is guessed: before a comma that looks as if it stood between two objects of the
list, since what follows begins as the first object does. Whether it does end there is not guessed:
the text from one such place to the next, in brackets, has to be a list in JSON. Had it been cut
within an object or a text, a bracket or a quotation mark would be missing. If no guess is right, the
piece gets longer, up to the whole file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO, Final, NamedTuple

import msgspec

PIECE_BYTES: Final = 1 << 20
"""Some thousand objects."""

MAX_GUESSES: Final = 4

BOM: Final = b"\xef\xbb\xbf"

_BEGINS: Final = re.compile(rb'(?:\xef\xbb\xbf)?[ \t\r\n]*\[([ \t\r\n]*\{[ \t\r\n]*"(?:[^"\\]|\\.)*")?')
_BETWEEN: Final = re.compile(rb"\}([ \t\r\n]*,)[ \t\r\n]*\{[ \t\r\n]*$")
_MAX_BETWEEN_BYTES: Final = 4096

_elements = msgspec.json.Decoder(list[msgspec.Raw]).decode


class NotCut(ValueError):
    """The file is not a list in JSON."""


class Piece(NamedTuple):
    data: bytes
    elements: list[msgspec.Raw]
    """Their texts are in `data`, in this order."""
    line: int
    """On which `data` begins, from 1."""
    offset: int
    """In the file, of the end of `data`."""


def pieces(stream: BinaryIO) -> Iterator[Piece]:
    """The pieces of the list in a file. Raises NotCut, maybe after some of them."""
    rest = stream.read(PIECE_BYTES)
    begins = _BEGINS.match(rest)
    if begins is None:  # not a list, or one that begins with a megabyte of blanks
        rest += stream.read()
        begins = _BEGINS.match(rest)
    if begins is None:
        raise NotCut
    bracket = begins.start(1) if begins[1] else begins.end()
    line = 1 + rest.count(b"\n", 0, bracket)
    key = begins[1][begins[1].index(b'"') :] if begins[1] else b""
    rest, offset = rest[bracket:], bracket
    size = PIECE_BYTES
    while more := stream.read(size):
        rest += more
        piece = _cut(rest, key, line, offset) if key else None
        if piece is None:
            size = len(rest)  # so that a file that can't be cut is not looked at too often
            continue
        yield piece
        size = PIECE_BYTES
        line += piece.data.count(b"\n")
        rest, offset = rest[len(piece.data) :], piece.offset
    try:
        elements = _elements(b"[" + rest)
    except (msgspec.DecodeError, RecursionError):
        raise NotCut from None
    yield Piece(rest, elements, line, offset + len(rest))


def _cut(text: bytes, key: bytes, line: int, offset: int) -> Piece | None:
    """The longest run of whole elements that can be found quickly, with the comma behind it."""
    end = len(text)
    for _ in range(MAX_GUESSES):
        end = text.rfind(key, 0, end)
        if end < 0:
            return None
        between = _BETWEEN.search(text, max(0, end - _MAX_BETWEEN_BYTES), end)
        if between is None:
            continue
        try:
            elements = _elements(b"[" + text[: between.start() + 1] + b"]")
        except (msgspec.DecodeError, RecursionError):
            continue
        cut = between.end(1)
        return Piece(text[:cut], elements, line, offset + cut)
    return None
