"""Framing: what is found in a stream never depends on how it was cut, and bad input stays alone."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import RatelError
from common.rpc import jsonrpc_framer
from common.rpc.jsonrpc import Call, Limits, Session
from common.rpc.jsonrpc_framer import Framer

SHARED_CPU = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
SMALL = Limits(max_message_bytes=400, max_depth=8, max_batch=5)
GOOD = b'{"id":7,"method":"Responder.GetCost","params":[{"Subject":"rif"}]}'
GOOD_REPLY = b'{"id":7,"result":540,"error":null}\n'


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def drain(session: Session, data: bytes) -> list[Call]:
    calls = session.feed(data)
    while session.more:
        calls += session.feed(b"")
    return calls


def run(
    chunks: list[bytes], limits: Limits = SMALL, session: Session | None = None
) -> tuple[list[Call], bytes, bool]:
    """Every call is answered with its own number at the end, as a gateway that is slow would."""
    session = session or Session(limits)
    calls = [call for chunk in chunks for call in drain(session, chunk)]
    session.feed_eof()
    for call in calls:
        session.answer(call.slot, b"540")
    return calls, session.take_output(), session.closing


def replies(output: bytes) -> list[Any]:
    return [json.loads(line) for line in output.splitlines()]


def error_names(output: bytes) -> list[str]:
    return [reply["error"]["data"]["name"] for reply in replies(output) if reply["error"]]


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(alphabet=st.sampled_from('ab"\\{}[]:,\n\t é😀\u2028\x7f'), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(alphabet='ab{["\\', max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
dumped = st.builds(
    lambda value, ascii_only, indent: json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode(),
    st.fixed_dictionaries(
        {"method": st.sampled_from(["Responder.Get", "Responder.DebitBalance", "Nonsense"])},
        optional={
            "id": json_values,
            "params": json_values | st.lists(st.dictionaries(st.just("Subject"), json_values), max_size=2),
            "jsonrpc": st.sampled_from(["2.0", "2.0", "1.0", None]),
            "other": json_values,
        },
    )
    | st.lists(json_values, max_size=3)
    | json_values,
    st.booleans(),
    st.sampled_from([None, 0, 1]),
)
noise = st.binary(max_size=6) | st.sampled_from(
    [
        b"{",
        b"}",
        b"[",
        b"]",
        b'"',
        b"\\",
        b"\n",
        b"{\n",
        b'{"a\n',
        b'"{"',
        b"[" * 20,
        b"]" * 20,
        b'{"a":1\n',
        b"\r\n",
    ]
)
flat = st.dictionaries(
    st.text(alphabet='ab"\\é', max_size=3),
    st.none() | st.integers(-9, 9) | st.text(alphabet='ab"\\é😀', max_size=4),
    max_size=2,
)
plain_lines = st.builds(
    lambda fields, end, ascii_only: json.dumps(fields, ensure_ascii=ascii_only).encode() + end,
    st.fixed_dictionaries(
        {
            "id": st.integers(0, 9) | st.text(alphabet='a"é', max_size=2),
            "method": st.sampled_from(["Responder.Get", "Responder.DebitBalance"]),
            "params": flat | st.lists(flat, min_size=1, max_size=1),
        },
        optional={"jsonrpc": st.just("2.0")},
    ),
    st.sampled_from([b"\n", b"\n", b"\r\n", b" \n\n"]),
    st.booleans(),
)
streams = st.lists(dumped | noise | plain_lines | st.sampled_from([b"\n", b" ", b""]), max_size=12).map(
    b"".join
)
almost_plain = st.lists(
    plain_lines
    | plain_lines
    | plain_lines
    | dumped.map(lambda text: text + b"\n")
    | st.sampled_from(
        [
            b'{"id":1,"method":"Responder.Get","params":[{"a":"{"}]}\n',
            b'{"id":1,"method":"Responder.Get","params":[{},{}]}\n',
            b'{"id":1,"method":"Responder.Get","params":[{},5]}\n',
            b'{"id":1,"method":"Responder.Get","params":[ {} ]}\n',
            b'{"id":1,"method":"Responder.Get","params":["{}"]}\n',
            b'{"id":[1],"method":"Responder.Get","params":["}"]}\n',
            b'{"id":1,"method":"Responder.Get","params":[]}\n',
            b'{"id":1,"method":"Responder.Get","params":5}\n',
            b'{"id":1,"method":"Responder.Get"}\n',
            b'{"method":"Responder.Get","jsonrpc":"2.0","params":{}}\n',
            b'{"id":1,"method":"Responder.No","params":{}}\n',
            b'{"id":1,"method":"Responder.Get","params":{"a":"\xff"}}\n',
            b'{"id":1,"method":"Responder.Get",\n"params":{}}\n',
            b'{"id":1,"method":"Responder.Get","params":\n{}}\n',
            b'{"id":1,"method":"Responder.Get","params":{"a":"\n"}}\n',
            b'{"id":1,"method":"Responder.Get","params":{}}{"id":2,"method":"Responder.Get","params":{}}\n',
            b'{"id":1,"method":"Responder.Get","params":{"a":' + b"[" * 7 + b"]" * 7 + b"}}\n",
            b'{"id":1,"method":"Responder.Get","params":{"a":"' + b"x" * 400 + b'"}}\n',
            b'{"id":1,"method":"Responder.Get","params":{},"params":[{}]}\n',
            b'{"id":1,"method":"Responder.Get","params":{}',
            b"\n\n \n",
        ]
    ),
    max_size=12,
).map(b"".join)


@given(streams, st.lists(st.integers(0, 10_000), max_size=12))
@settings(SHARED_CPU, max_examples=400)
def test_any_split_of_any_stream_gives_the_same_calls_and_the_same_output(
    data: bytes, cuts: list[int]
) -> None:
    assert run(pieces(data, cuts)) == run([data])


@given(streams)
@settings(SHARED_CPU, max_examples=200)
def test_byte_by_byte_is_the_same_as_the_whole(data: bytes) -> None:
    assert run([data[i : i + 1] for i in range(len(data))]) == run([data])


@given(streams)
@settings(SHARED_CPU, max_examples=200)
def test_the_quick_way_only_saves_time(data: bytes) -> None:
    def framed(quick: bool) -> list[str]:
        decode = _text_of_plain_object if quick else lambda _: None
        framer: Framer[bytes] = Framer(decode, max_message_bytes=400, max_depth=8)
        found = [repr(event) for event in framer.feed(data)]
        return [*found, repr(framer.feed_eof())]

    assert framed(quick=True) == framed(quick=False)


@given(almost_plain | streams, st.lists(st.integers(0, 10_000), max_size=3), st.sampled_from([400, 3000]))
@settings(SHARED_CPU, max_examples=400)
def test_all_ways_find_the_same(data: bytes, cuts: list[int], max_message_bytes: int) -> None:
    limits = Limits(max_message_bytes=max_message_bytes, max_depth=8, max_batch=5)
    thorough = Session(limits)
    thorough._framer = Framer(lambda _: None, max_message_bytes=max_message_bytes, max_depth=8)
    assert run(pieces(data, cuts), limits) == run([data], session=thorough)


def test_whole_lines_of_ordinary_calls_are_decoded_at_once() -> None:
    def never(text: bytes) -> None:
        pytest.fail(f"{text!r} was looked at by itself")

    for line in (
        GOOD + b"\n",
        GOOD + b" \r\n",
        b'{"jsonrpc":"2.0","id":"\xc3\xa9","method":"Responder.Get","params":{"a":1}}\n',
    ):
        session = Session()
        session._framer._decode = never
        assert len(session.feed(line * 100)) == 100
        assert session.found == 100
        assert not session.more


def test_what_is_beyond_the_events_of_one_call_is_found_by_the_next() -> None:
    framer: Framer[bytes] = Framer(
        _text_of_plain_object, lambda text: text.split(b"\n")[:-1], max_message_bytes=10**6, max_depth=64
    )
    lines = [b'{"a":%d}' % number for number in range(1000)]
    found = framer.feed(b"\n".join(lines) + b"\n", 300)
    while framer.more:
        more = framer.feed(b"", 300)
        assert len(more) <= 300
        found += more
    assert found == lines


def _text_of_plain_object(text: bytes) -> bytes | None:
    try:
        json.loads(text)
    except ValueError:
        return None
    return text.rstrip(b" \t\r")


def _lines_of_plain_objects(text: bytes) -> list[bytes] | None:
    found = [_text_of_plain_object(line) for line in text.splitlines()]
    return None if None in found else [each for each in found if each is not None]


separators = st.sampled_from([b"", b"\n", b"\r\n", b" ", b"\t\n \n"])


@given(
    st.lists(st.tuples(json_values, st.booleans(), separators), max_size=10), st.lists(st.integers(0, 9999))
)
def test_good_messages_all_get_through(messages: list[tuple[Any, bool, bytes]], cuts: list[int]) -> None:
    stream, expected = b"", []
    for value, pretty, separator in messages:
        message = {"id": value, "method": "Responder.GetCost", "params": [{"Subject": value}]}
        stream += json.dumps(message, indent=1 if pretty else None).encode() + separator
        expected.append({"id": value, "result": 540, "error": None})
    calls, output, _ = run(pieces(stream, cuts), Limits())
    assert [json.loads(call.params) for call in calls] == [{"Subject": value["id"]} for value in expected]
    decoder, position, found = json.JSONDecoder(), 0, []
    text = output.decode()
    while position < len(text):
        reply, position = decoder.raw_decode(text, position)
        found.append(reply)
        position += 1
    assert found == expected


@pytest.mark.parametrize(
    "bad",
    [
        b'{"id":1,}',
        b"{]",
        b"[1 2]",
        b"nonsense",
        b"5",
        b'"a { string"',
        b'"it says \\" { here"',
        b"}]",
        b'{"id":1,"method":"Responder.Get',
        b'{"id":1,"method":"Responder.Get","params":[{"Subject":"ri\\',
        b'{"id":1,"method":"Responder.Get","params":[{"Subject":"rif"}',
        b'{"id":1,"method":"Responder.Get"',
        b'{"id":1,"params":[{"a":1}',
        b'{"id":1,',
        b"[" * 9 + b"]" * 9,
        b'{"id":' * 20 + b"1" + b"}" * 20,
        b'{"id":"\xff","method":"Responder.Get"}',
        b'{"id":"\\ud800","method":"Responder.Get"}',
        b"\x00\x01\x02",
        b"\xef\xbb\xbf x",
    ],
)
@pytest.mark.parametrize("size", [1, 3, 10_000])
def test_one_bad_line_is_answered_once_and_never_harms_its_neighbours(bad: bytes, size: int) -> None:
    stream = GOOD + b"\n" + bad + b"\n" + GOOD + b"\n" + GOOD + b"\n"
    calls, output, closing = run([stream[i : i + size] for i in range(0, len(stream), size)])
    assert len(calls) == 3
    assert not closing
    assert output.count(GOOD_REPLY) == 3
    assert len(error_names(output)) == 1


def test_without_newlines_too_the_next_message_is_found() -> None:
    for bad in (b"{]", b"nonsense", b'"a { string"', b"[" * 9 + b"]" * 9, b"}]"):
        calls, output, _ = run([GOOD + bad + GOOD])
        assert len(calls) == 2, bad
        assert len(error_names(output)) == 1, bad


def test_a_bracket_at_the_start_of_a_line_is_fine_where_json_allows_a_value() -> None:
    request = {"id": 1, "method": "Responder.Get", "params": [{"Subject": [[], [{}]], "a": {"b": []}}]}
    odd = (
        b'[\n\n{"id":1,"method":"Responder.Get","params"\n:\n[\n{"Subject":\n[\n[\n]\n,\n[\n]\n]\n}\n]\n}\n]'
    )
    for text in (
        json.dumps([request, request], indent=1).encode(),
        json.dumps(request, indent=0).encode(),
        odd,
    ):
        calls, output, _ = whole = run([text])
        assert calls
        assert b"parse_error" not in output
        assert run([text[i : i + 1] for i in range(len(text))]) == whole


@pytest.mark.parametrize("size", [1, 2, 1000])
def test_a_byte_order_mark_is_ignored_at_the_very_start_only(size: int) -> None:
    stream = b"\xef\xbb\xbf" + GOOD
    calls, output, _ = run([stream[i : i + size] for i in range(0, len(stream), size)])
    assert (len(calls), output) == (1, GOOD_REPLY)
    assert error_names(run([GOOD + stream])[1]) == ["parse_error"]


@pytest.mark.parametrize("unfinished", [b"{", b"[", b'{"id":1', b'{"id":"', b'{"id":"\\', b"\xef\xbb"])
def test_an_unfinished_message_at_the_end_is_a_parse_error(unfinished: bytes) -> None:
    calls, output, closing = run([GOOD + b"\n" if unfinished[0] != 0xEF else b"", unfinished])
    assert error_names(output) == ["parse_error"]
    assert not closing
    assert len(calls) == (unfinished[0] != 0xEF)


@pytest.mark.parametrize("finished", [b"", b" \r\n", GOOD, GOOD + b"\n  "])
def test_an_end_between_messages_is_no_error(finished: bytes) -> None:
    assert error_names(run([finished])[1]) == []


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_message_of_the_limit_passes_and_one_byte_more_loses_the_framing(size: int) -> None:
    padding = SMALL.max_message_bytes - len(GOOD)
    largest = GOOD.replace(b"rif", b"rif" + b"x" * padding)
    for tail in (b"", b"\n", b"\r\n"):
        stream = largest + tail + GOOD
        chunks = [stream[i : i + size] for i in range(0, len(stream), size)]
        assert (len(run(chunks)[0]), run(chunks)[2]) == (2, False)
        stream = GOOD + largest.replace(b"rif", b"rifx") + tail + GOOD
        calls, output, closing = run([stream[i : i + size] for i in range(0, len(stream), size)])
        assert (len(calls), closing) == (1, True)
        assert error_names(output) == ["message_too_large"]


def test_what_comes_after_the_framing_is_lost_is_ignored_and_calls_before_it_are_answered() -> None:
    session = Session(SMALL)
    (call,) = session.feed(GOOD + b'{"id":"' + b"x" * 400)
    assert session.closing
    assert session.feed(GOOD) == []
    session.feed_eof()
    assert session.closing
    session.answer(call.slot, b"540")
    assert session.take_output().endswith(GOOD_REPLY)


def test_a_bomb_of_brackets_is_refused_at_its_end_and_not_kept() -> None:
    session = Session(Limits(max_depth=64))
    bomb = b"[" * 300_000
    session.feed(bomb)
    assert len(session._framer._text) == 0
    assert session.take_output() == b""
    assert drain(session, b"]" * 300_000 + GOOD)
    assert error_names(session.take_output()) == ["nested_too_deep"]


def test_the_limit_of_depth_is_exact_whatever_the_brackets() -> None:
    for opening, closing in ((b"[", b"]"), (b'{"":', b"}")):
        for depth, expected in ((64, []), (65, ["nested_too_deep"])):
            # The message itself is one level.
            nested = opening * (depth - 1) + b"1" + closing * (depth - 1)
            message = b'{"id":' + nested + b',"method":"Responder.Get","other":"[[[[[{{{{{"}\n'
            calls, output, _ = run([message], Limits())
            assert len(calls) == (not expected)
            if expected:
                assert error_names(output) == expected


class CountingFramer(Framer[bytes]):
    """Counts the bytes that each of its steps looks at."""

    looked_at = 0

    def _try_plain(self, data: bytes, pos: int, max_messages: int) -> tuple[Sequence[bytes] | None, int]:
        found, end = super()._try_plain(data, pos, max_messages)
        self.looked_at += 3 * (end - pos)  # for the last newline, for all of them, and to decode it
        return found, end

    def _try_quick(self, text: bytes) -> bytes | None:
        self.looked_at += len(text)
        return super()._try_quick(text)

    def _scan(self, data: bytes, start: int) -> Any:
        found = super()._scan(data, start)
        self.looked_at += found[0] - start
        return found

    def _tail(self, data: bytes, start: int, end: int) -> tuple[int, bool]:
        self.looked_at += end - max(start, len(data[start:end].rstrip()))
        return super()._tail(data, start, end)

    def _garbage(self, data: bytes, pos: int) -> int:
        end = super()._garbage(data, pos)
        self.looked_at += end - pos
        return end


def looked_at(chunks: list[bytes], monkeypatch: pytest.MonkeyPatch) -> int:
    framer = CountingFramer(
        _text_of_plain_object, _lines_of_plain_objects, max_message_bytes=1024 * 1024, max_depth=64
    )
    for name in ("_SPACE", "_STRING_REST", "_NEXT_BRACKET", "_RESYNC"):
        monkeypatch.setattr(jsonrpc_framer, name, CountingPattern(framer, getattr(jsonrpc_framer, name)))
    for chunk in chunks:
        framer.feed(CountingBytes.over(chunk, framer))
    monkeypatch.undo()
    return framer.looked_at


class CountingPattern:
    def __init__(self, framer: CountingFramer, pattern: re.Pattern[bytes]) -> None:
        self.framer, self.pattern = framer, pattern

    def match(self, data: bytes, pos: int) -> re.Match[bytes] | None:
        found = self.pattern.match(data, pos)
        self.framer.looked_at += (found.end() if found else len(data)) - pos
        return found

    def search(self, data: bytes, pos: int) -> re.Match[bytes] | None:
        found = self.pattern.search(data, pos)
        self.framer.looked_at += (found.end() if found else len(data)) - pos
        return found


class CountingBytes(bytes):
    framer: CountingFramer

    @classmethod
    def over(cls, data: bytes, framer: CountingFramer) -> CountingBytes:
        counting = cls(data)
        counting.framer = framer
        return counting

    def find(self, sub: Any, start: Any = 0, end: Any = None) -> int:
        found = super().find(sub, start)
        self.framer.looked_at += (found if found >= 0 else len(self)) - start
        return found

    def removeprefix(self, prefix: Any, /) -> CountingBytes:
        return CountingBytes.over(bytes(self).removeprefix(prefix), self.framer)

    def __radd__(self, other: bytes) -> CountingBytes:
        return CountingBytes.over(other + bytes(self), self.framer)


LONG_STRING = b'{"id":"' + b"x" * 200_000 + b'"}'
STREAMS = {
    "lines": (GOOD + b"\n") * 2000,
    "no separators": GOOD * 2000,
    "spaces": (GOOD + b" ") * 2000,
    "all on one line": GOOD * 2000 + b"\n",
    "almost all in one line, spaced": (GOOD + b" ") * 2000 + b"\n",
    "tiny": b"{}" * 30_000,
    "tiny lists": b"[]" * 30_000,
    "brackets in strings that look like ends": (b'{"id":"}{"}' * 5000),
    "long string": LONG_STRING,
    "escapes": b'{"id":"' + b"\\\\" * 100_000 + b'"}',
    "many strings": b'{"id":[' + b'"a",' * 50_000 + b'"a"]}',
    "spaces inside": b'{"id":[' + b" " * 50_000 + b"1," + b"\n" * 50_000 + b"[1]]}",
    "unclosed": b'{"id":[' * 50_000,
    "garbage": b"x" * 200_000,
    "garbage lines": b"x\n" * 50_000,
    "garbage string": b'"' + b"{" * 200_000,
    "cut short lines": b'{"id":1\n' * 20_000,
    "white space": b" \n" * 100_000,
    "objects in a list": b"[" + b'{"a":1},' * 20_000 + b"1]",
}


@pytest.mark.source
@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("size", [1, 17, 4096, 10**9])
def test_work_is_linear_in_the_bytes_however_they_come(
    name: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = STREAMS[name][: 20_000 if size < 100 else None]
    chunks = [stream[i : i + size] for i in range(0, len(stream), size)]
    assert looked_at(chunks, monkeypatch) <= 8 * len(stream) + 8 * len(chunks)


def test_a_long_message_byte_by_byte_is_put_together_once() -> None:
    framer: Framer[bytes] = Framer(lambda _: None, max_message_bytes=1024 * 1024, max_depth=64)
    text = b'{"id":"' + b"\\n{" * 100_000 + b'"}'
    found: list[bytes | RatelError] = []
    for position in range(len(text)):
        found += framer.feed(text[position : position + 1])
    assert found == [text]
