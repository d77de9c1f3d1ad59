"""Every script's header says what the script does: held to it by reading the text.

The scripts are looked at as they are sent, with everything included and without comments.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

import rater
from common.methods import METHODS
from rater.accounts.value import HEADER as ACCOUNT_HEADER
from rater.accounts.value import MAGIC
from rater.store.scripts import SCRIPTS

FOLDER = Path(rater.__file__).parent / "lua"
VERBS = sorted(path.stem for path in FOLDER.glob("*.lua") if not path.stem.startswith("_"))
PIECES = sorted(path.name for path in FOLDER.glob("_*.lua"))
READS = {"GET", "HGET", "XRANGE"}
WRITES = {"SET", "SETRANGE", "INCR", "HSET", "XADD", "XTRIM", "PEXPIRE"}
KEY_TYPES = {
    "HASH": {"HGET", "HSET"},
    "STREAM": {"XADD", "XRANGE", "XTRIM"},
    "STRING": {"GET", "SET", "SETRANGE", "INCR", "PEXPIRE"},
}
HEADER = re.compile(
    r"--\[\[\nPurpose: (?P<purpose>.+?)\n\nKEYS:(?P<key_groups> for each request three)?\n(?P<keys>.+?)\n"
    r"ARGV:(?P<each> (first one for all, then )?for each .+?)?\n(?P<argv>.+?)\n"
    r"Returns: (?P<returns>.+?)\nErrors:(?P<errors>.+?)\n\]\]\n",
    re.DOTALL,
)
CALL = re.compile(r"\b(?P<how>call|try)\(\s*('(?P<command>\w+)')?(?:\s*,\s*(?P<key>KEYS\[[^\]]*\]|[^,)]+))?")
COUNTS = {"three": 3, "four": 4, "five": 5, "nine": 9, "ten": 10, "twelve": 12}


class Header(NamedTuple):
    keys: dict[int, str]
    argv: set[int]
    groups: int
    """Arguments that come again and again (`ARGV: for each tenant three`); 0 when none do."""
    requests: bool
    """It takes a list of requests: three keys for each, and behind the first argument a group of words."""
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
    numbers = re.findall(r"^  (\d+) ", match["argv"], re.MULTILINE)
    return Header(
        keys,
        set(map(int, numbers)),
        COUNTS[match["each"].split()[-1]] if match["each"] else 0,
        bool(match["key_groups"]),
        set(re.findall(r"\b(OK|Plan|Opened|Replaced|Kept)\b", match["returns"])),
        set(re.findall(r"^  (\w+)", match["errors"], re.MULTILINE)),
    )


def body(name: str) -> str:
    whole = SCRIPTS[name].text if name in SCRIPTS else source(name)
    text = re.sub(r"--\[\[.*?\]\]", "", whole, flags=re.DOTALL)
    return re.sub(r"--.*", "", text)


def calls(text: str) -> list[tuple[int, str, str, str]]:
    """Position, how (`call` or `try`), command and key argument of every call of the store."""
    return [
        (match.start(), match["how"], match["command"] or "", (match["key"] or "").strip())
        for match in CALL.finditer(text)
    ]


REQUEST_VERBS = [verb for verb in VERBS if header(verb).requests]
OTHER_VERBS = [verb for verb in VERBS if not header(verb).requests]


def test_every_verb_of_an_account_is_loaded() -> None:
    assert set(SCRIPTS) == {verb for verb in VERBS if "STRING  account" in source(verb)}
    assert len(REQUEST_VERBS) == 8


@pytest.mark.parametrize("piece", PIECES)
def test_every_piece_is_used_and_explained(piece: str) -> None:
    text = (FOLDER / piece).read_text(encoding="utf-8")
    assert text.startswith("-- Shared by ")
    assert "--@include" not in text
    assert any(f"--@include {piece}" in source(verb) for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_include_is_resolved(verb: str) -> None:
    assert "@include" not in (SCRIPTS[verb].text if verb in SCRIPTS else source(verb))


@pytest.mark.parametrize("verb", OTHER_VERBS)
def test_the_keys_used_are_the_keys_declared(verb: str) -> None:
    declared = header(verb).keys
    assert sorted(declared) == list(range(1, len(declared) + 1))
    assert {int(n) for n in re.findall(r"KEYS\[(\d+)\]", body(verb))} == set(declared)
    assert not re.search(r"KEYS(?!\[\d+\])", body(verb))


@pytest.mark.parametrize("verb", REQUEST_VERBS)
def test_each_request_uses_its_own_three_keys(verb: str) -> None:
    text = body(verb)
    assert sorted(header(verb).keys) == [1, 2, 3]
    assert text.count("for key = 1, #KEYS, 3 do repeat\n") == 1
    assert {int(n or 0) for n in re.findall(r"KEYS\[key(?: \+ (\d))?\]", text)} == {0, 1, 2}
    rest = re.sub(r"KEYS\[key(?: \+ \d)?\]|, #KEYS, 3|local KEYS, ARGV = KEYS, ARGV", "", text)
    assert "KEYS" not in rest


@pytest.mark.parametrize("verb", OTHER_VERBS)
def test_the_arguments_used_are_the_arguments_declared(verb: str) -> None:
    declared = header(verb)
    if declared.groups:
        steps = re.findall(r"for i = 1, #ARGV, (\d+) do", body(verb))
        used = {int(plus or 0) + 1 for plus in re.findall(r"ARGV\[i(?: \+ (\d+))?\]", body(verb))}
        assert set(steps) == {str(declared.groups)}
        assert used == declared.argv
        return
    assert declared.argv == set(range(1, len(declared.argv) + 1))
    assert {int(n) for n in re.findall(r"ARGV\[(\d+)\]", body(verb))} == declared.argv


@pytest.mark.parametrize("verb", REQUEST_VERBS)
def test_the_words_of_a_request_are_those_declared(verb: str) -> None:
    """Behind the one argument for all, each request has a group of its own, at `at`."""
    declared, text = header(verb), body(verb)
    assert declared.argv == set(range(1, declared.groups + 2))
    assert re.findall(r"local OP, WORDS = '(?:\w+)', (\d+)\n", text) == [str(declared.groups)]
    assert text.count("local at = 2 + (place - 1) * WORDS\n") == 1
    used = {int(plus or 0) + 2 for plus in re.findall(r"ARGV\[at(?: \+ (\d+))?\]", text)}
    assert used | {int(n) for n in re.findall(r"ARGV\[(\d+)\]", text)} == declared.argv
    assert re.findall(r"ARGV\[(\d+)\]", text) == ["1"]


def test_the_operation_in_a_journal_line_is_the_method() -> None:
    names = {re.findall(r"local OP, WORDS = '(\w+)'", body(verb))[0] for verb in REQUEST_VERBS}
    assert names == {method.name for method in METHODS if method.mutates}


@pytest.mark.parametrize("verb", VERBS)
def test_no_key_is_touched_but_declared_ones_by_commands_of_their_type(verb: str) -> None:
    """`account` is the account's key of the requests that are at hand."""
    keys = header(verb).keys
    found = calls(body(verb))
    assert found
    for _, _, command, key in found:
        assert command in READS | WRITES | {"TIME"}
        if command == "TIME":
            assert not key
            continue
        number = re.fullmatch(r"KEYS\[(?:(\d)|key(?: \+ (\d))?)\]", key)
        assert number or (key == "account" and header(verb).requests), f"{command} of {key}"
        place = 1 if not number else int(number[1]) if number[1] else int(number[2] or 0) + 1
        assert command in KEY_TYPES[keys[place]]
    wanted = ["call", "pcall"] if header(verb).requests else ["call"]
    assert re.findall(r"\bredis\.(\w+)", body(verb)) == wanted, "used by their local names"


@pytest.mark.parametrize("verb", OTHER_VERBS)
def test_checks_come_first_and_writes_last(verb: str) -> None:
    text = body(verb)
    found = [(position, command) for position, _, command, _ in calls(text)]
    first_write = min(position for position, command in found if command in WRITES)
    assert all(position < first_write for position, command in found if command not in WRITES)
    assert len(re.findall(r"\breturn\b", text[first_write:])) == 1


@pytest.mark.parametrize("verb", REQUEST_VERBS)
def test_a_request_s_checks_come_first_and_its_writes_last(verb: str) -> None:
    """What may fail for the state of a key is asked for by `try`, and its error is looked at. The journal
    line is the first write, and behind it nothing is decided any more."""
    text = body(verb)
    text = re.sub(r"local function save\(\).*?\nend\n", "", text, count=1, flags=re.DOTALL)
    found = calls(text)
    lines = [position for position, _, command, _ in found if command == "XADD"]
    before = [(how, command) for position, how, command, _ in found if position < lines[0]]
    assert before == [
        ("try", "GET"),
        ("call", "PEXPIRE"),
        ("call", "TIME"),
        ("try", "GET"),
        ("try", "SET"),
    ]
    after = [(how, command) for position, how, command, _ in found if position >= lines[0]]
    assert after == [("try", "XADD"), ("try", "XADD"), ("call", "SET")]
    for name in re.findall(r"(\w+) = try\(", text):
        assert re.search(rf"\b{name}\.err\b", text), f"{name} may be an error"
    # A replay and a refusal end the request.
    assert re.search(r"if known then.*?PEXPIRE.*?\n      break\n    end\n", text, re.DOTALL)
    assert re.search(r"if refusal then.*?\n      break\n    end\n", text, re.DOTALL)
    behind = text[lines[0] :]
    assert "refusal" not in behind
    assert re.findall(r"if line\.err then(.*?)\n    end", behind, re.DOTALL) == [
        "\n      save()\n      account = nil\n      replies[place] = line\n      break"
    ]
    assert behind.count("break") == 1
    assert re.search(r"changed = balances \.\. behind\n.*call\('SET'", behind, re.DOTALL)


@pytest.mark.parametrize("verb", REQUEST_VERBS)
def test_whatever_fails_the_account_is_written_behind_its_lines(verb: str) -> None:
    text = body(verb)
    assert text.count("pcall(each)") == 1
    assert text.split("pcall(each)")[1].split() == [
        "save()",
        *["if", "not", "whole", "then", "error(problem,", "0)", "end", "return", "replies"],
    ]
    assert re.search(r"if KEYS\[key\] ~= account then\s+save\(\)", text)
    assert all(before.split()[-1] == "save()" for before in text.split("account = nil")[:-1])


@pytest.mark.parametrize("verb", VERBS)
def test_every_outcome_is_declared(verb: str) -> None:
    declared = header(verb)
    text = body(verb)
    refusals = set(re.findall(r"refusal = (?:refusal or )?'(\w+)", text))
    returned = set(re.findall(r"return '(\w+)", text)) | set(re.findall(r"outcome = '(\w+)", text))
    returned |= set(re.findall(r"replies\[place\] = '(\w+)", text))
    if "outcome, seq = 'Open', 'Opened'" in text:
        returned |= {"Opened", "Replaced"}
    assert refusals | returned == declared.errors | declared.returns


@pytest.mark.parametrize("verb", VERBS)
def test_numbers_become_text_only_by_an_exact_format(verb: str) -> None:
    """`tostring` and `..` of a number have 14 digits."""
    text = body(verb)
    assert "tostring" not in text
    assert set(re.findall(r"%[\d.]*[a-z]", "".join(re.findall(r"format\('([^']*)'", text)))) <= {"%.0f"}


@pytest.mark.parametrize("verb", VERBS)
def test_the_layout_of_an_account_is_that_of_the_product(verb: str) -> None:
    """The first bytes and the sizes that the scripts know are those of `rater.accounts.value`."""
    text = body(verb)
    assert set(re.findall(r"'(RATEL\w*)'", text)) <= {MAGIC.decode()}
    assert set(re.findall(r"#(?:value|known|account) (?:>=|<) (\d+)", text)) <= {str(ACCOUNT_HEADER.size)}
    assert set(re.findall(r"'(<c8[^']*)'", text)) <= {"<c8i8i8i8i8i8i8i8BBBBI4"}


@pytest.mark.parametrize("verb", VERBS)
def test_text_is_never_put_in_order_by_the_server_s_locale(verb: str) -> None:
    text = body(verb)
    assert not re.search(r"\b(id|terms|destination)\s*[<>]", text)
    sorts = re.findall(r"table\.sort\(([^)]*)\)", text)
    assert sorts == ["matching, before"] * len(sorts)
    assert text.count("local function before(a, b)") == len(sorts)


@pytest.mark.parametrize("verb", VERBS)
def test_loops_are_over_lists(verb: str) -> None:
    """The only loops that are not `for` end with the amount or the argument; `repeat` gives `break` a place
    to go on from, and runs once."""
    text = body(verb)
    loops = re.findall(r"\bwhile (.+?) do\b", text)
    assert set(loops) <= {"left_over > 0 and not refusal", "from <= #ARGV[at + 4]"}
    assert len(re.findall(r"\brepeat\b", text)) == len(re.findall(r"\buntil true\b", text))
    assert len(re.findall(r"\brepeat\b", text)) == int(header(verb).requests)
