"""A journal's lines as values, and their texts: each line has just one, byte for byte.

So what is decoded here and encoded again is what the store held, and of two lines that are equal as
values the texts are equal too. Everything that the scripts would not have written so is `Damaged`.
The fields are those of `rater.accounts`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from common.money import LIMIT
from rater.model import Bucket

_INTEGER: Final = re.compile(r"0|-?[1-9][0-9]{0,15}", re.ASCII)
_ENTRY_ID: Final = re.compile(r"(0|[1-9][0-9]{0,19})-(0|[1-9][0-9]{0,19})", re.ASCII)
_LENGTH: Final = re.compile(rb"0|[1-9][0-9]{0,9}")
_BUCKET: Final = re.compile(rb"(0|[1-9]\d{0,15}) (0|-?[1-9]\d{0,15}) (0|[1-9]\d{0,15}) (.*)", re.DOTALL)
_SHAPES: Final = 128
"""Sets of fields whose check is kept: the scripts write a dozen."""
MAX_SHOWN_CHARS: Final = 200
"""Of a text in a finding: enough to recognise it."""


class Balances(NamedTuple):
    credit: int
    sms: int
    traffic: int
    volume_discount: int
    received: int


class BonusFigures(NamedTuple):
    """What AddRecievedCallSeconds says that it gave; all are totals over the times."""

    times: int
    received: int
    """Taken off the counter."""
    credit: int
    sms: int
    traffic: int


class Line(NamedTuple):
    id: str
    """Of the stream's entry, `<ms>-<n>`."""
    seq: int
    op: str
    amount: int
    token: str
    balances: Balances
    buckets: tuple[Bucket, ...] | None = None
    """None where the line does not state them: they are what they were."""
    cost: int | None = None
    bonus: BonusFigures | None = None


class Difference(NamedTuple):
    field: str
    expected: str
    found: str


class Damaged(NamedTuple):
    """An entry that is no journal line."""

    id: str
    difference: Difference


class LiveAccount(NamedTuple):
    seq: int
    balances: Balances
    buckets: tuple[Bucket, ...]


# --- reading ----------------------------------------------------------------------------------------


class _Bad(Exception):
    def __init__(self, field: str, expected: str, found: str) -> None:
        self.difference = Difference(field, expected, found[:MAX_SHOWN_CHARS])


_COMMON: Final = frozenset(("seq", "op", "amount", "token", *Balances._fields))
_NONE: Final[frozenset[str]] = frozenset()
_BUCKETS: Final = frozenset(("buckets",))
_FIELDS: Final[dict[str, tuple[frozenset[str], frozenset[str]]]] = {
    "Open": (_BUCKETS, _NONE),
    "Load": (_BUCKETS, _NONE),
    "DebitBalance": (_NONE, _NONE),
    "DebitSMS": (_NONE, _NONE),
    "DebitSeconds": (_BUCKETS | {"cost"}, _NONE),
    "AddVolumeDiscountSeconds": (_NONE, _NONE),
    "ResetVolumeDiscountSeconds": (_NONE, _NONE),
    "AddRecievedCallSeconds": (_NONE, _BUCKETS | {"bonus"}),
    "ResetUserBudget": (_BUCKETS, _NONE),
}
"""Which fields a line has beyond those that all have, and which it may have."""


def text_of(raw: bytes) -> str:
    """A text from the store. What is not UTF-8 survives, and is the same bytes when it goes back."""
    return raw.decode("utf-8", "surrogateescape")


def decode_entry(entry_id: bytes, pairs: Sequence[bytes]) -> Line | Damaged:
    """A journal line from an entry of the stream as the store replies it."""
    names = [text_of(name) for name in pairs[::2]]
    fields = dict(zip(names, map(text_of, pairs[1::2]), strict=True))
    if len(fields) < len(names):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        return Damaged(text_of(entry_id), Difference(twice, "once in a line", "twice"))
    return decode_line(text_of(entry_id), fields)


def decode_line(entry_id: str, fields: dict[str, str]) -> Line | Damaged:
    """A journal line from its fields."""
    try:
        return _line(entry_id, fields)
    except _Bad as bad:
        return Damaged(entry_id, bad.difference)


def _line(entry_id: str, fields: dict[str, str]) -> Line:
    if not _ENTRY_ID.fullmatch(entry_id):
        raise _Bad("id", "<ms>-<n>", entry_id)
    op = fields.get("op", "")
    misfit = _misfit(op, tuple(fields))
    if misfit is not None:
        name, expected = misfit
        raise _Bad(name, expected, repr(fields[name]) if name in fields else "none")
    bonus = fields.get("bonus")
    buckets = fields.get("buckets")
    return Line(
        entry_id,
        _integer(fields, "seq"),
        op,
        _integer(fields, "amount"),
        fields["token"],
        _balances(fields),
        None if buckets is None else _unpack(buckets),
        _integer(fields, "cost") if "cost" in fields else None,
        None if bonus is None else _bonus(bonus),
    )


@lru_cache(_SHAPES)
def _misfit(op: str, names: tuple[str, ...]) -> tuple[str, str] | None:
    """A field that is missing or too much, and what was expected instead."""
    if op not in _FIELDS:
        return "op", "an operation"
    needed, possible = _FIELDS[op]
    for name in sorted((_COMMON | needed).difference(names)):
        return name, f"a figure in a line of {op}"
    for name in sorted(frozenset(names) - _COMMON - needed - possible):
        return name, f"no such field in a line of {op}"
    return None


def _integer(fields: dict[str, str], name: str) -> int:
    text = fields[name]
    try:
        value = int(text)
    except ValueError:
        raise _Bad(name, "an integer", repr(text)) from None
    if str(value) != text or not -LIMIT <= value <= LIMIT:  # int takes spaces, zeros, signs, other digits
        raise _Bad(name, "an integer", repr(text))
    return value


def _balances(fields: dict[str, str]) -> Balances:
    return Balances(*(_integer(fields, name) for name in Balances._fields))


def _bonus(text: str) -> BonusFigures:
    words = dict(enumerate(text.split(" ")))
    if len(words) != len(BonusFigures._fields) or not all(_INTEGER.fullmatch(w) for w in words.values()):
        raise _Bad("bonus", "five integers", repr(text))
    return BonusFigures(*(int(word) for word in words.values()))


def _unpack(packed: str) -> tuple[Bucket, ...]:
    """The buckets from netstrings; their lengths count bytes."""
    rest = packed.encode("utf-8", "surrogateescape")
    buckets: list[Bucket] = []
    while rest:
        size, colon, rest = rest.partition(b":")
        if not colon or not _LENGTH.fullmatch(size):
            raise _Bad("buckets", "netstrings", repr(packed))
        length = int(size)
        if rest[length : length + 1] != b",":
            raise _Bad("buckets", "netstrings", repr(packed))
        buckets.append(_bucket("buckets", rest[:length]))
        rest = rest[length + 1 :]
    return tuple(buckets)


def _bucket(field: str, text: bytes) -> Bucket:
    match = _BUCKET.fullmatch(text)
    if match is None or int(match[1]) > LIMIT:
        raise _Bad(field, "<seconds> <priority> <price> <destination>", repr(text))
    return Bucket(text_of(match[4]), int(match[1]), int(match[2]), int(match[3]))


def decode_account(pairs: Sequence[bytes]) -> LiveAccount | Difference:
    """An account as the store replies it, as far as its journal speaks of it; or what is wrong with it."""
    fields = dict(zip(map(text_of, pairs[::2]), pairs[1::2], strict=True))
    try:
        for name in ("seq", *Balances._fields):
            if name not in fields:
                raise _Bad(name, "a figure in the account", "none")
        figures = {name: text_of(fields[name]) for name in ("seq", *Balances._fields)}
        held = [name for name in fields if name.startswith("bucket:")]
        for index, name in enumerate(f"bucket:{index}" for index in range(len(held))):
            if name not in fields:
                raise _Bad(name, f"one of {len(held)} buckets without gaps", "none")
            held[index] = name
        buckets = tuple(_bucket(name, fields[name]) for name in held)
        return LiveAccount(_integer(figures, "seq"), _balances(figures), buckets)
    except _Bad as bad:
        return bad.difference


# --- writing ----------------------------------------------------------------------------------------


def encode_line(line: Line) -> dict[str, str]:
    """The fields of a line as the store holds them: the inverse of `decode_line`."""
    fields = {"seq": str(line.seq), "op": line.op, "amount": str(line.amount), "token": line.token}
    fields |= {name: str(value) for name, value in zip(Balances._fields, line.balances, strict=True)}
    if line.buckets is not None:
        fields["buckets"] = _pack(line.buckets)
    if line.cost is not None:
        fields["cost"] = str(line.cost)
    if line.bonus is not None:
        fields["bonus"] = " ".join(map(str, line.bonus))
    return fields


def _pack(buckets: Sequence[Bucket]) -> str:
    texts = (f"{b.seconds_us} {b.priority} {b.price_nanos} {b.destination}" for b in buckets)
    return "".join(f"{len(text.encode('utf-8', 'surrogateescape'))}:{text}," for text in texts)


def id_order(entry_id: str) -> tuple[int, int]:
    """What entry ids are in order by."""
    ms, _, number = entry_id.partition("-")
    return int(ms), int(number)
