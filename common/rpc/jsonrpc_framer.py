"""Finds the messages in a JSON-RPC stream, however it was cut on its way here.

Messages are JSON objects or lists that follow each other with or without white space. `Framer`
takes the stream in pieces and returns what it found, in order: a decoded message, the text of one,
or the error to answer with. What it finds never depends on where the pieces were cut, and it looks
at each byte a bounded number of times: state is kept between pieces, nothing is scanned again.
A caller that must not be held up bounds what one call finds; the rest of the piece is kept for the
next call.

Three ways lead to the same result. The plain way takes all whole lines at once, and is right where they
hold nothing out of the ordinary. The quick way takes a line (or what reaches to the next `}{`, or
the whole rest) and tries to decode it: an object that decodes is a whole message, because a JSON
object ends where its first bracket closes. The thorough way counts brackets outside strings.

One bad message must not harm its neighbours, so these rules find the way back:

1. The brackets balance but the text is not JSON: the decoder's matter, the stream goes on.
2. Anything but `{` or `[` between messages: one parse error, then the rest is skipped up to the
   next newline, `{` or `[`; a JSON string at its start is skipped with what is between its quotes.
3. A raw newline in a string, where JSON allows none: one parse error, go on after the newline.
4. A line that begins with a bracket where JSON allows no value: the message before it was cut
   short. One parse error, go on at the bracket.
5. Nested too deep: one error when the message ends; its text is not kept.
6. Too long: one error, and the framing is lost for good. `closing` turns true.

A byte order mark at the very start is ignored.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Final, Generic, TypeVar

from common.errors import MessageTooLarge, NestedTooDeep, ParseError, RatelError

T = TypeVar("T")

_NEWLINE: Final = 0x0A
_RETURN: Final = 0x0D
_QUOTE: Final = 0x22
_COMMA: Final = 0x2C
_COLON: Final = 0x3A
_OPEN_LIST: Final = 0x5B
_BACKSLASH: Final = 0x5C
_OPEN_OBJECT: Final = 0x7B
_CLOSE_OBJECT: Final = 0x7D
_SPACES: Final = frozenset(b" \t\r\n")
_BOM: Final = b"\xef\xbb\xbf"

# The quantifiers are possessive: the patterns never go back, so they are linear in what they read.
_SPACE: Final = re.compile(rb"[ \t\r\n]*+")
_STRING_REST: Final = re.compile(rb'[^"\\\n]*+(?:\\[^\n][^"\\\n]*+)*+')
_NEXT_BRACKET: Final = re.compile(
    rb'[^"{}\[\]]*+(?:"[^"\\\n]*+(?:\\[^\n][^"\\\n]*+)*+"[^"{}\[\]]*+)*+([{}\[\]"]|\Z)'
)
"""Over whole strings to the next bracket, to a string that isn't whole, or to the end."""
_RESYNC: Final = re.compile(rb"[\n{\[]")


SHARE_BYTES: Final = 16 * 1024
"""What a bounded call reads the thorough way: were it all brackets, some 10 ms."""


PLAIN_BYTES: Final = 32 * 1024
"""What the plain way takes at once: more than a hundred ordinary messages. What it reads in vain, where
the last of them is out of the ordinary, is read again by the other ways."""


class _Mode(Enum):
    START = auto()
    BETWEEN = auto()
    MESSAGE = auto()
    GARBAGE = auto()
    ENDED = auto()
    CLOSED = auto()


class _Outcome(Enum):
    MORE = auto()
    """The piece ends first."""
    COMPLETE = auto()
    BROKEN = auto()


class Framer(Generic[T]):
    """One stream.

    `decode` is the quick way: the decoded message, or None if the text isn't one. `decode_lines` is the
    plain way: the decoded messages of some lines, one in each that is not empty or in several of them; or
    None in any doubt.
    """

    def __init__(
        self,
        decode: Callable[[bytes], T | None],
        decode_lines: Callable[[bytes], Sequence[T] | None] | None = None,
        *,
        max_message_bytes: int,
        max_depth: int,
    ) -> None:
        self._decode = decode
        self._decode_lines = decode_lines
        self._max_message_bytes = max_message_bytes
        self._max_depth = max_depth
        self._mode = _Mode.START
        self._held = b""  # the beginning of what may become a byte order mark
        # The piece at hand and how far it was read.
        self._piece = b""
        self._pos = 0
        # Of the piece at hand: where its line ends, and from where the other ways may be tried again.
        self._line_end = 0
        self._quick_from = 0
        self._plain_from = 0
        # Of the string at hand, in a message or in garbage.
        self._in_string = False
        self._escaped = False
        # Of the message at hand.
        self._text = bytearray()
        self._length = 0
        self._depth = 0
        self._lists = 0  # bit d is set when level d is a list
        self._too_deep = False
        self._last = 0  # the last byte of earlier pieces that is not white space …
        self._newline_since = False  # … and whether a newline came after it

    @property
    def closing(self) -> bool:
        """The framing is lost for good: whatever follows is ignored."""
        return self._mode is _Mode.CLOSED

    @property
    def more(self) -> bool:
        """A part of what was fed is not read yet, because `max_events` was reached."""
        return self._pos < len(self._piece)

    @property
    def unfinished(self) -> bool:
        """A message was begun, and its end has not come."""
        return self._mode is _Mode.MESSAGE or bool(self._held)

    def feed(self, data: bytes, max_events: int = sys.maxsize) -> list[T | bytes | RatelError]:
        """What the next piece of the stream completes.

        A message comes as what `decode` made of it, or else as text with balanced brackets. Where
        events are bounded, a call ends after `max_events`, after a list (it may be the work of
        many) and after SHARE_BYTES read the thorough way. The rest of the piece is left for
        further calls, with b"" or with more, until `more` is false.
        """
        tried = 0
        if self._mode is _Mode.BETWEEN and not self._piece and self._is_short_and_whole(data):
            messages, tried = self._try_plain(data, 0, max_events)
            if messages is not None:
                return list(messages)  # nearly always: a read brought whole lines, and nothing else
        if self._mode is _Mode.START:
            data = self._without_mark(data)
        if self._pos < len(self._piece):
            if data:
                self._take(self._piece[self._pos :] + data)
        else:
            self._take(data)
            self._plain_from = tried
        return self._read_piece(max_events)

    def _read_piece(self, max_events: int) -> list[T | bytes | RatelError]:
        events: list[T | bytes | RatelError] = []
        data = self._piece
        pos, size = self._pos, len(data)
        share = size if max_events == sys.maxsize else SHARE_BYTES
        while pos < size and len(events) < max_events:
            mode = self._mode
            if mode is _Mode.BETWEEN:
                pos = self._between(data, pos, events, max_events)
            elif mode is _Mode.MESSAGE:
                piece = data if share >= size else data[pos : pos + share]
                start = pos if share >= size else 0
                read = self._message(piece, start, events) - start
                pos, share = pos + read, share - read
                if max_events != sys.maxsize and (share <= 0 or _ends_with_list(events)):
                    break
            elif mode is _Mode.GARBAGE:
                pos = self._garbage(data, pos)
            else:
                pos = size
        if pos == size:
            self._take(b"")
        else:
            self._pos = pos
        return events

    def close(self) -> None:
        """Read nothing more, whatever comes."""
        self._mode = _Mode.CLOSED
        self._held = b""
        self._text.clear()
        self._take(b"")

    def feed_eof(self) -> RatelError | None:
        """The end of the stream: the error for a message that was begun and not finished."""
        unfinished = self.unfinished
        if self._mode is not _Mode.CLOSED:
            self._mode = _Mode.ENDED
        self._held = b""
        self._text.clear()
        self._take(b"")
        return ParseError(detail="the input ends within a message") if unfinished else None

    def _take(self, piece: bytes) -> None:
        self._piece = piece
        self._pos = self._line_end = self._quick_from = self._plain_from = 0

    def _without_mark(self, data: bytes) -> bytes:
        data = self._held + data
        if len(data) < len(_BOM) and _BOM.startswith(data):
            self._held = data
            return b""
        self._held = b""
        self._mode = _Mode.BETWEEN
        return data.removeprefix(_BOM)

    def _between(self, data: bytes, pos: int, events: list[T | bytes | RatelError], max_events: int) -> int:
        size = len(data)
        while pos < size and len(events) < max_events:
            byte = data[pos]
            if byte == _OPEN_OBJECT and pos >= self._plain_from:
                messages, end = self._try_plain(data, pos, max_events - len(events))
                if messages is not None:
                    events += messages
                    pos = end
                    continue
                self._plain_from = end
            if byte == _OPEN_OBJECT and pos >= self._quick_from:
                end = self._line_end
                if pos >= end:
                    found = data.find(b"\n", pos)
                    self._line_end = end = found if found >= 0 else size
                if end == size:
                    found = data.find(b"}{", pos)
                    end = found + 1 if found >= 0 else size
                message = self._try_quick(data[pos:end])
                if message is not None:
                    events.append(message)
                    pos = end + 1 if end < size and data[end] == _NEWLINE else end
                    continue
                self._quick_from = end
            if byte in (_OPEN_OBJECT, _OPEN_LIST):
                self._begin_message()
                return pos
            if byte not in _SPACES:
                events.append(ParseError(detail=f"a message begins with {{ or [, not with {_shown(byte)}"))
                self._mode = _Mode.GARBAGE
                self._in_string = byte == _QUOTE
                return pos + 1
            pos = _end(_SPACE, data, pos)
        return pos

    def _is_short_and_whole(self, data: bytes) -> bool:
        """Lines that `_try_plain` takes to the last byte, if it takes any."""
        size = len(data)
        return 0 < size <= min(PLAIN_BYTES, self._max_message_bytes) and data[-1] == _NEWLINE

    def _try_plain(self, data: bytes, pos: int, max_messages: int) -> tuple[Sequence[T] | None, int]:
        """The messages of the next lines, if all are plain, and where what was looked at ends."""
        limit = min(pos + PLAIN_BYTES, pos + self._max_message_bytes, len(data))
        if self._decode_lines is None:
            return None, limit
        end = data.rfind(b"\n", pos, limit) + 1
        if not end:
            return None, limit
        lines = data[pos:end]
        if lines.count(b"\n") > max_messages:  # they can't be more
            return None, end
        return self._decode_lines(lines), end

    def _try_quick(self, text: bytes) -> T | None:
        """The message, if `text` is a whole one that is surely within the limits."""
        size = len(text)
        if text[-1] not in (_CLOSE_OBJECT, _RETURN) or size > self._max_message_bytes:
            return None
        # JSON can't be nested deeper than it has brackets, nor in objects deeper than a fifth of its
        # bytes, `{"":` and `}` each. In doubt the thorough way decides.
        lists = text.count(b"[")
        if lists + size // 5 >= self._max_depth and lists + text.count(b"{") > self._max_depth:
            return None
        return self._decode(text)

    def _begin_message(self) -> None:
        self._mode = _Mode.MESSAGE
        self._in_string = self._escaped = False
        self._length = self._depth = self._lists = 0
        self._too_deep = False
        self._last = 0
        self._newline_since = False

    def _message(self, data: bytes, start: int, events: list[T | bytes | RatelError]) -> int:
        end, outcome = self._scan(data, start)
        self._length += end - start
        if self._length > self._max_message_bytes:
            self.close()
            events.append(MessageTooLarge(limit_bytes=self._max_message_bytes))
            return len(data)
        if self._too_deep:
            self._text.clear()
        elif outcome is not _Outcome.BROKEN:
            self._text += data[start:end]
        if outcome is _Outcome.MORE:
            return end
        if outcome is _Outcome.BROKEN:
            detail = "a line ends within a string" if self._in_string else "the message is cut short"
            events.append(ParseError(detail=detail))
        elif self._too_deep:
            events.append(NestedTooDeep(limit=self._max_depth))
        else:
            events.append(bytes(self._text))
        self._text.clear()
        self._mode = _Mode.BETWEEN
        return end

    def _scan(self, data: bytes, start: int) -> tuple[int, _Outcome]:
        """On through the message at hand; the position after what belongs to it."""
        pos, size = start, len(data)
        while pos < size:
            if self._in_string:
                pos, outcome = self._scan_string(data, pos)
                if outcome is not _Outcome.COMPLETE:
                    return pos, outcome
            found = _NEXT_BRACKET.match(data, pos)
            at = found.start(1) if found else size
            if at == size:
                break
            pos = at + 1
            byte = data[at]
            if byte == _QUOTE:
                self._in_string = True
            elif byte in (_OPEN_OBJECT, _OPEN_LIST):
                if self._depth and self._is_out_of_place(data, start, at):
                    return at, _Outcome.BROKEN
                self._open_bracket(byte)
            else:
                self._depth -= 1
                if not self._depth:
                    return pos, _Outcome.COMPLETE
        self._remember_tail(data, start)
        return size, _Outcome.MORE

    def _open_bracket(self, byte: int) -> None:
        self._depth += 1
        if self._depth > self._max_depth:
            self._too_deep = True
        elif byte == _OPEN_LIST:
            self._lists |= 1 << self._depth
        else:
            self._lists &= ~(1 << self._depth)

    def _is_out_of_place(self, data: bytes, start: int, at: int) -> bool:
        """Whether the opening bracket at `at` begins a line and JSON allows no value there."""
        last, newline_since = self._tail(data, start, at)
        if not newline_since or self._depth > self._max_depth:
            return False
        if self._lists >> self._depth & 1:
            return last not in (_OPEN_LIST, _COMMA)
        return last != _COLON

    def _tail(self, data: bytes, start: int, end: int) -> tuple[int, bool]:
        """The message's last byte before `end` that is not white space; did a newline follow it?"""
        newline_since = False
        pos = end - 1
        while pos >= start:
            byte = data[pos]
            if byte not in _SPACES:
                return byte, newline_since
            newline_since = newline_since or byte == _NEWLINE
            pos -= 1
        return self._last, newline_since or self._newline_since

    def _remember_tail(self, data: bytes, start: int) -> None:
        self._last, self._newline_since = self._tail(data, start, len(data))

    def _scan_string(self, data: bytes, pos: int) -> tuple[int, _Outcome]:
        """On through the string at hand: COMPLETE after its quote, BROKEN after a raw newline."""
        size = len(data)
        if self._escaped:
            if data[pos] == _NEWLINE:
                return pos + 1, _Outcome.BROKEN
            self._escaped = False
            pos += 1
        pos = _end(_STRING_REST, data, pos)
        if pos == size:
            return size, _Outcome.MORE
        byte = data[pos]
        if byte == _QUOTE:
            self._in_string = False
            return pos + 1, _Outcome.COMPLETE
        if byte == _NEWLINE:
            return pos + 1, _Outcome.BROKEN
        if pos + 1 == size:  # a backslash: what it escapes is in the next piece
            self._escaped = True
            return size, _Outcome.MORE
        return pos + 2, _Outcome.BROKEN

    def _garbage(self, data: bytes, pos: int) -> int:
        """Skips to where the next message may begin."""
        if self._in_string:
            pos, outcome = self._scan_string(data, pos)
            if outcome is _Outcome.BROKEN:
                self._mode = _Mode.BETWEEN
            if outcome is not _Outcome.COMPLETE:
                return pos
        found = _RESYNC.search(data, pos)
        if not found:
            return len(data)
        self._mode = _Mode.BETWEEN
        return found.end() if data[found.start()] == _NEWLINE else found.start()


def _end(pattern: re.Pattern[bytes], data: bytes, pos: int) -> int:
    """Where a pattern that always matches ends."""
    found = pattern.match(data, pos)
    return found.end() if found else pos


def _ends_with_list(events: list[T | bytes | RatelError]) -> bool:
    return bool(events) and isinstance(last := events[-1], bytes) and last[0] == _OPEN_LIST


def _shown(byte: int) -> str:
    return repr(chr(byte)) if 0x21 <= byte <= 0x7E else f"the byte 0x{byte:02x}"
