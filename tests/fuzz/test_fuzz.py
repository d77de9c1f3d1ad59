"""Every target of `tests.fuzz.targets`, with inputs made by a grammar; none may break a promise."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from common.methods import METHODS
from common.wire import PROTOCOL, Kind
from tests.fuzz.__main__ import NAMES, main
from tests.fuzz.seeds import BODIES, DESCRIPTORS, FRAMES, QUERIES, REPLIES, REQUESTS, SEEDS, STREAMS, WORDS
from tests.fuzz.targets import PARAMETERS, TARGETS
from tests.fuzz.tariff_targets import FILES
from tests.unit.tariff_sample import sample_files

THOROUGH = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])

# --- grammar ----------------------------------------------------------------------------------------

ODD_NUMBERS = st.sampled_from(
    [
        *(
            "0",
            "-0",
            "01",
            "1.",
            "1e5",
            "1E-7",
            "-1.5e3",
            "1e999999999999999999999",
            "0e-99999999999999999999",
        ),
        *("9007199254.740991", "9007199254.7409911", "9" * 70, "2147483648", "18446744073709551616", "NaN"),
    ]
)
TEXTS = st.text(alphabet=st.sampled_from('abE0{}[]":,\\/+ \n\r\t\0\x7fé\u2028\ufeff😀'), max_size=6)
STRINGS = st.one_of(
    TEXTS.map(json.dumps),
    TEXTS.map(lambda text: json.dumps(text, ensure_ascii=False)),
    st.sampled_from(
        ['"\\ud800"', '"\\udc00\\ud800"', '"\\u0000"', '"\\q"', '"\n"', '"vdf"', '"rif"', '"0256"']
    ),
    st.sampled_from(
        ['"2012-02-02T17:30:00Z"', '"9999-12-31T23:59:59.999999999-23:59"', '"0001-01-01T00:00:00Z"']
    ),
)
JSON = st.recursive(
    st.sampled_from(["null", "true", "false"]) | ODD_NUMBERS | STRINGS | st.integers().map(str),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda members: f"[{','.join(members)}]")
        | st.lists(st.tuples(STRINGS, inner).map(":".join), max_size=3).map(
            lambda m: "{" + ", ".join(m) + "}"
        )
    ),
    max_leaves=5,
)


def objects(names: list[str], usual: dict[str, str]) -> st.SearchStrategy[str]:
    """Objects with some of these members, in any order, some twice; those in `usual` mostly as there."""
    member = st.sampled_from(names).flatmap(
        lambda name: st.one_of(st.just(usual[name]) if name in usual else JSON, JSON, ODD_NUMBERS).map(
            lambda value: f'"{name}":{value}'
        )
    )
    return st.lists(member, max_size=len(names) + 1).map(lambda members: "{" + ",".join(members) + "}")


@st.composite
def damaged(draw: st.DrawFn, texts: st.SearchStrategy[bytes], words: tuple[str, ...]) -> bytes:
    """Mostly as it is; else with a part cut out, put elsewhere, or replaced by a word or any bytes."""
    text = draw(texts)
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2, 4]))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 12)))
        new = draw(
            st.sampled_from([word.encode("latin-1") for word in words])
            | st.binary(max_size=4)
            | st.sampled_from(
                [b"\xef\xbb\xbf", b"\0", b"\xff", b"\xed\xa0\x80", text[end : end + 20], b"[" * 70]
            )
        )
        text = text[:start] + new + text[end:]
    return text


def steered(low: int, high: int, texts: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.tuples(st.integers(low, high), texts).map(lambda pair: bytes([pair[0]]) + pair[1])


CUTS = st.one_of(
    st.sampled_from([b"\0", b"\1\0"]),  # whole, byte by byte
    st.lists(st.integers(0, 255) | st.integers(0, 6), min_size=1, max_size=7).map(
        lambda sizes: bytes([len(sizes), *sizes])
    ),
)
CALLS = objects(
    ["jsonrpc", "id", "method", "params", "other"],
    {"jsonrpc": '"2.0"', "method": '"Responder.Get"', "params": '[{"Subject":"rif"}]'},
)
MESSAGES = CALLS | st.lists(CALLS | JSON, max_size=6).map(lambda each: f"[{','.join(each)}]") | JSON
SEPARATORS = st.sampled_from(["\n", "\n", "\r\n", "", " ", " \n\t"])
SERVED = st.lists(
    st.tuples(MESSAGES | MESSAGES.map(lambda text: text[:-1]), SEPARATORS).map("".join), max_size=6
).map(lambda each: "".join(each).encode())
REPLIED = objects(
    ["jsonrpc", "id", "result", "error"],
    {"id": "1", "error": '{"code":-32012,"message":"no","data":{"name":"no_rate"}}'},
)
STEPS = [each.lower().decode() for each in PARAMETERS]
ENCODED = st.one_of(
    st.sampled_from(
        ["vdf", "rif", "+40256", "%2B40", "0256", "100", "-1.5e3", "60.5", "2012-02-02T17:30:00+02:00"]
    ),
    st.sampled_from(
        ["%", "%zz", "%F0%9F%98%80", "%ff", "%00", "a+b", "a%40b", "a@dest=1", "", "=", "%2", "1e400"]
    ),
    ODD_NUMBERS,
)
QUERY = st.lists(
    st.tuples(
        st.sampled_from([*STEPS, "CstmId", "SUBJ", "%64est", "other", "", "d%FFst"]),
        st.sampled_from(["=", "=", "=", "", "=="]),
        ENCODED,
        st.sampled_from(["&", "&", "@", "&&", ";"]),
    ).map("".join),
    max_size=8,
).map(lambda pairs: "".join(pairs).encode())
FULL_QUERY = st.tuples(
    st.just(b"cstmid=vdf&subj=rif&dest=0256&amount=1&"), QUERY | st.just(b"start=2012-02-02T17:30:00Z")
).map(b"".join)
LINES = st.sampled_from(
    [
        *(
            "GET /a HTTP/1.1",
            "POST /b?c HTTP/1.1",
            "HEAD /d HTTP/1.0",
            "GET http://h/e HTTP/1.1",
            "OPTIONS * HTTP/1.1",
        ),
        *("Host: x", "X:", "Content-Length: 3", "Transfer-Encoding: chunked", "Connection: close"),
        *(
            "Expect: 100-continue",
            "Connection: Upgrade\r\nUpgrade: h2c",
            "",
            "",
            "",
            "abc",
            "3",
            "0",
            "1;e",
            "T: x",
        ),
    ]
)
CONVERSATION = st.lists(st.tuples(LINES, st.just("\r\n")).map("".join), max_size=16).map(
    lambda lines: "".join(lines).encode()
)
DESCRIBED = objects(
    [
        "TOR",
        "Tor",
        "CstmId",
        "Subject",
        "DestinationPrefix",
        "TimeStart",
        "TimeEnd",
        "Amount",
        "RequestId",
        "amount",
    ],
    {
        "CstmId": '"vdf"',
        "Subject": '"rif"',
        "DestinationPrefix": '"0256"',
        "TimeStart": '"2012-02-02T17:30:00Z"',
        "TimeEnd": '"2012-02-02T18:30:00Z"',
        "TOR": "0",
    },
).map(str.encode)
COMPLETE = st.tuples(
    st.just(b'{"CstmId":"vdf","Subject":"rif","DestinationPrefix":"02","Amount":'),
    ODD_NUMBERS.map(str.encode)
    | st.decimals(allow_nan=False, allow_infinity=False).map(lambda n: str(n).encode()),
    st.sampled_from(
        [b"}", b',"TimeStart":"2012-02-02T17:30:00Z","TimeEnd":"2012-02-02T18:30:00Z"}', b',"Tor":1}']
    ),
).map(b"".join)

MSGPACK = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(),
        st.text(max_size=4),
        st.binary(max_size=4),
        st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=4)),
        st.just(msgpack.Timestamp(1, 2)),
    ),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=8,
)
NUMBER = st.integers(0, 2**64 - 1)
NAME = st.text(max_size=3)
ROW_OF_WORK = [NUMBER, NAME, st.binary(max_size=3), NAME, NUMBER]
ROW_OF_DONE = [NUMBER, st.integers(-40_000, 0), st.binary(max_size=3), st.booleans()]


def nearly(fields: list[st.SearchStrategy[Any]]) -> st.SearchStrategy[list[Any]]:
    """A list of these, in which one may be anything else, or one more or less."""
    right = st.tuples(*fields).map(list)
    odd = st.integers(0, max(0, len(fields) - 1)).flatmap(
        lambda at: st.tuples(right, MSGPACK).map(lambda pair: [*pair[0][:at], pair[1], *pair[0][at + 1 :]])
    )
    return st.one_of(right, odd, right.map(lambda row: row[:-1]), st.tuples(right, MSGPACK).map(list))


FRAME = st.one_of(
    nearly([st.just(int(Kind.WORK)), NAME, NUMBER, st.lists(nearly(ROW_OF_WORK), max_size=3)]),
    nearly([st.just(int(Kind.DONE)), NAME, st.lists(nearly(ROW_OF_DONE), max_size=3)]),
    nearly([st.just(int(Kind.STATE)), st.just(PROTOCOL), NAME, NUMBER, NUMBER]),
    nearly([st.just(int(Kind.BEAT)), NAME, NUMBER]),
    nearly([st.integers(-1, 9), NAME]),
    MSGPACK,
).map(msgpack.packb)
HUGE = st.sampled_from(
    [b"\xdd\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"]
)


BORDERLINE = st.sampled_from(
    ["-1", "7", "13", "32", '""', '"09:00:00"', '"18:00:00"', '"23:59:59"', '"24:00:00"']
)


@st.composite
def tariff_files(draw: st.DrawFn) -> bytes:
    """One file of the sample in which some values are others."""
    number = draw(st.integers(0, len(FILES) - 1))
    rarity = draw(st.sampled_from([12, 40]))  # with one mistake a file is refused, whatever else it holds
    marks: dict[str, str] = {}

    def changed(value: Any) -> Any:
        if isinstance(value, dict) and value:
            return {name: changed(member) for name, member in value.items()}
        if isinstance(value, list) and value:
            return [changed(member) for member in value] * draw(st.sampled_from([1, 1, 1, 1, 1, 2]))
        if draw(st.integers(0, rarity)):
            return value
        mark = f"\x01{len(marks)}\x01"
        marks[json.dumps(mark)] = draw(JSON | BORDERLINE)
        return mark

    text = json.dumps(changed(sample_files()[FILES[number]]), indent=draw(st.sampled_from([None, 1])))
    for mark, value in marks.items():
        text = text.replace(mark, value)
    return bytes([number]) + text.encode(errors="surrogatepass")


# --- the targets ------------------------------------------------------------------------------------

INPUTS: dict[str, tuple[int, st.SearchStrategy[bytes]]] = {
    "jsonrpc": (
        250,
        st.tuples(CUTS, damaged(SERVED | st.sampled_from(STREAMS), WORDS["jsonrpc"])).map(b"".join),
    ),
    "replies": (
        150,
        st.tuples(
            CUTS,
            damaged(
                REPLIED.map(lambda reply: f"{reply}\n".encode()) | st.sampled_from(REPLIES), WORDS["replies"]
            ),
        ).map(b"".join),
    ),
    "http": (
        300,
        steered(0, 8, damaged(QUERY | FULL_QUERY | st.sampled_from(QUERIES), WORDS["http"]))
        | steered(9, 6 * len(METHODS) - 1, damaged(DESCRIBED | st.sampled_from(BODIES), WORDS["http"])),
    ),
    "connection": (
        250,
        st.tuples(CUTS, damaged(CONVERSATION | st.sampled_from(REQUESTS), WORDS["connection"])).map(b"".join),
    ),
    "wire": (
        300,
        damaged(FRAME | st.sampled_from(FRAMES), WORDS["wire"]) | st.tuples(FRAME, HUGE).map(b"".join),
    ),
    "descriptor": (
        300,
        steered(0, 8, damaged(DESCRIBED | COMPLETE | st.sampled_from(DESCRIPTORS), WORDS["descriptor"])),
    ),
    "loader": (200, damaged(tariff_files(), WORDS["loader"])),
    "store": (
        150,
        steered(0, 23, st.binary(min_size=2, max_size=12) | st.sampled_from([b"\x01vdf", b"\x02\xa1\xff"])),
    ),
}
assert INPUTS.keys() == TARGETS.keys()


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_made_by_the_grammar_breaks_a_promise(name: str) -> None:
    count, inputs = INPUTS[name]

    @settings(THOROUGH, max_examples=count)
    @given(inputs)
    def run(data: bytes) -> None:
        TARGETS[name](data)

    run()


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_of_the_corpus_break_no_promise(name: str) -> None:
    for seed in SEEDS[name]:
        TARGETS[name](seed)


@settings(THOROUGH, max_examples=100)
@example("jsonrpc", b"")
@given(st.sampled_from(sorted(TARGETS)), st.binary(max_size=60))
def test_no_bytes_break_a_promise(name: str, data: bytes) -> None:
    TARGETS[name](data)


# --- the command ------------------------------------------------------------------------------------


def test_the_command_knows_every_target() -> None:
    assert list(TARGETS) == list(NAMES)


def test_without_atheris_the_command_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "atheris", None)
    monkeypatch.setattr(sys, "argv", ["fuzz", "wire"])
    assert main() == 2
    assert "make fuzz" in capsys.readouterr().err


def test_an_input_that_was_kept_can_be_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "crash-1"
    kept.write_bytes(FRAMES[0])
    monkeypatch.setattr(sys, "argv", ["fuzz", "wire", "--replay", str(kept)])
    assert main() == 0
    assert "breaks no promise" in capsys.readouterr().out
