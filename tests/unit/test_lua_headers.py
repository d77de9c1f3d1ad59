"""Every script's header says what the script does: held to it by reading the text.

The scripts are looked at as they are sent, with everything included and without comments.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

import rater
from rater.scripts import SCRIPTS

FOLDER = Path(rater.__file__).parent / "lua"
VERBS = sorted(path.stem for path in FOLDER.glob("*.lua") if not path.stem.startswith("_"))
PIECES = sorted(path.name for path in FOLDER.glob("_*.lua"))
READS = {"GET", "HGET", "HMGET", "HGETALL", "XRANGE"}
WRITES = {"SET", "INCR", "HSET", "HDEL", "DEL", "XADD", "XTRIM", "PEXPIRE"}
KEY_TYPES = {
    "HASH": {"HGET", "HMGET", "HGETALL", "HSET", "HDEL", "DEL"},
    "STREAM": {"XADD", "XRANGE", "XTRIM"},
    "STRING": {"GET", "SET", "INCR", "PEXPIRE"},
}
HEADER = re.compile(
    r"--\[\[\nPurpose: (?P<purpose>.+?)\n\nKEYS:\n(?P<keys>.+?)\n"
    r"ARGV:(?P<each> for each .+?)?\n(?P<argv>.+?)\n"
    r"Returns: (?P<returns>.+?)\nErrors:(?P<errors>.+?)\n\]\]\n",
    re.DOTALL,
)
CALL = re.compile(r"\bcall\(\s*('(?P<command>\w+)')?(?:\s*,\s*(?P<key>[^,)]+))?")


class Header(NamedTuple):
    keys: dict[int, str]
    argv: set[int]
    variadic: int | None
    """Number of the first argument of an open list (`7…`)."""
    groups: bool
    """All arguments come again and again (`ARGV: for each tenant three`)."""
    returns: set[str]
    errors: set[str]


def source(name: str) -> str:
    return (FOLDER / f"{name}.lua").read_text(encoding="utf-8")


def header(name: str) -> Header:
    match = HEADER.match(source(name))
    assert match, f"{name}.lua does not begin with the header"
    keys = {}
    for line in match["keys"].splitlines():
        number, kind, _ = line.split(maxsplit=2)
        keys[int(number)] = kind
    numbers = re.findall(r"^  (\d+)(…?) ", match["argv"], re.MULTILINE)
    variadic = [int(number) for number, dots in numbers if dots]
    errors = {line.split()[0] for line in match["errors"].split("\n") if line.strip()}
    return Header(
        keys,
        {int(number) for number, dots in numbers if not dots},
        variadic[0] if variadic else None,
        bool(match["each"]),
        set(re.findall(r"\b(OK|Plan|Opened|Replaced|Kept)\b", match["returns"])),
        errors - {"none"},
    )


def body(name: str) -> str:
    whole = SCRIPTS[name].text if name in SCRIPTS else source(name)
    text = re.sub(r"--\[\[.*?\]\]", "", whole, flags=re.DOTALL)
    return re.sub(r"--.*", "", text)


def calls(name: str) -> list[tuple[int, str, str]]:
    """Position, command and key argument of every call of the store."""
    return [
        (match.start(), match["command"] or "", (match["key"] or "").strip())
        for match in CALL.finditer(body(name))
    ]


def test_every_verb_of_an_account_is_loaded() -> None:
    assert set(SCRIPTS) == {verb for verb in VERBS if "HASH    account" in source(verb)}


@pytest.mark.parametrize("piece", PIECES)
def test_every_piece_is_used_and_explained(piece: str) -> None:
    text = (FOLDER / piece).read_text(encoding="utf-8")
    assert text.startswith("-- Shared by ")
    assert "--@include" not in text
    assert any(f"--@include {piece}" in source(verb) for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_include_is_resolved(verb: str) -> None:
    assert "@include" not in (SCRIPTS[verb].text if verb in SCRIPTS else source(verb))


@pytest.mark.parametrize("verb", VERBS)
def test_the_keys_used_are_the_keys_declared(verb: str) -> None:
    declared = header(verb).keys
    assert sorted(declared) == list(range(1, len(declared) + 1))
    assert {int(n) for n in re.findall(r"KEYS\[(\d+)\]", body(verb))} == set(declared)
    assert not re.search(r"KEYS(?!\[\d+\])", body(verb))


@pytest.mark.parametrize("verb", VERBS)
def test_the_arguments_used_are_the_arguments_declared(verb: str) -> None:
    """An amount that is always 0 need not be looked at by the verb, but is in its journal line."""
    declared = header(verb)
    if declared.groups:
        steps = re.findall(r"for i = 1, #ARGV, (\d+) do", body(verb))
        used = {int(plus or 0) + 1 for plus in re.findall(r"ARGV\[i(?: \+ (\d+))?\]", body(verb))}
        assert set(steps) == {str(len(declared.argv))}
        assert used == declared.argv
        return
    assert declared.argv == set(range(1, len(declared.argv) + 1))
    assert {int(n) for n in re.findall(r"ARGV\[(\d+)\]", body(verb))} == declared.argv
    open_ended = [int(a or b) for a, b in re.findall(r"= (\d+), #ARGV|unpack\(ARGV, (\d+)\)", body(verb))]
    assert open_ended == ([] if declared.variadic is None else [declared.variadic])
    if declared.variadic is not None:
        assert declared.variadic == len(declared.argv) + 1


@pytest.mark.parametrize("verb", VERBS)
def test_no_key_is_touched_but_declared_ones_by_commands_of_their_type(verb: str) -> None:
    keys = header(verb).keys
    found = calls(verb)
    assert found
    for _, command, key in found:
        assert command in READS | WRITES | {"TIME"}
        if command == "TIME":
            assert not key
            continue
        number = re.fullmatch(r"KEYS\[(\d)\]", key)
        assert number, f"{command} of {key}"
        assert command in KEY_TYPES[keys[int(number[1])]]
    assert not re.search(r"\bredis\.(?!call\b)", body(verb))
    assert len(re.findall(r"\bredis\.call\b", body(verb))) == 1, "redis.call is used by its local name"


@pytest.mark.parametrize("verb", VERBS)
def test_checks_come_first_and_writes_last(verb: str) -> None:
    """Writes that a `return` follows at once (a refusal under its token, a token that is used again) may
    stand between them."""
    text = body(verb)
    text = re.sub(r"if refusal then.*?return refusal\s*end", "", text, flags=re.DOTALL)
    text = re.sub(r"call\('PEXPIRE', [^)]*\)\s*return\b", "return", text)
    found = [(match.start(), match["command"]) for match in CALL.finditer(text)]
    first_write = min(position for position, command in found if command in WRITES)
    assert all(position < first_write for position, command in found if command not in WRITES)
    after = text[first_write:]
    assert "refusal" not in after
    assert len(re.findall(r"\breturn\b(?! table\.concat)", after)) == 1


@pytest.mark.parametrize("verb", VERBS)
def test_every_outcome_is_declared(verb: str) -> None:
    declared = header(verb)
    text = body(verb)
    refusals = set(re.findall(r"refusal = (?:refusal or )?'(\w+)", text))
    returned = set(re.findall(r"return '(\w+)", text)) | set(re.findall(r"outcome = '(\w+)", text))
    if "outcome, seq = 'Open', 'Opened'" in text:
        returned |= {"Opened", "Replaced"}
    assert refusals | returned == declared.errors | declared.returns


@pytest.mark.parametrize("verb", VERBS)
def test_numbers_become_text_only_by_an_exact_format(verb: str) -> None:
    """`tostring` and `..` of a number have 14 digits; bucket and rank indexes are the exception."""
    text = body(verb)
    assert "tostring" not in text
    assert set(re.findall(r"%[\d.]*[a-z]", "".join(re.findall(r"format\('([^']*)'", text)))) <= {"%.0f"}


@pytest.mark.parametrize("verb", VERBS)
def test_text_is_never_put_in_order_by_the_server_s_locale(verb: str) -> None:
    assert not re.search(r"\b(id|terms|destination)\s*[<>]", body(verb))
    assert len(re.findall(r"table\.sort\(", body(verb))) == len(
        re.findall(r"table\.sort\(\w+, function", body(verb))
    )


@pytest.mark.parametrize("verb", VERBS)
def test_loops_are_over_lists(verb: str) -> None:
    """The only loops that are not `for` end with the buckets or with the amount."""
    loops = re.findall(r"\bwhile (.+?) do\b", body(verb))
    assert set(loops) <= {"fields['bucket:' .. #buckets]", "rest > 0 and not refusal"}
    assert "repeat" not in body(verb)
