"""A journal's lines as values, as the store holds them (`decode_entry`), and as texts in archives.

A line has just one form in the store and just one in texts, byte for byte: of two lines that are equal as
values these are equal too. Everything that the scripts would not have written so is `Damaged`. The store's
fields are those of `rater.accounts.mutations`; the texts have the sequence number, the balances, operation,
amount and
token as fields of their own, and the buckets as netstrings, `<bytes>:<text>,` one after the other, because a
destination id may hold any character.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from common.money import LIMIT
from rater.accounts.value import FIGURES, NotAnAccount, unpack_account, unpack_buckets
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
    terms: str | None = None
    """SetTerms: what was decided about the account."""


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
    "SetTerms": (frozenset(("terms",)), _NONE),
}
"""Which fields a line has beyond those that all have, and which it may have."""


def text_of(raw: bytes) -> str:
    """A text from the store. What is not UTF-8 survives, and is the same bytes when it goes back."""
    return raw.decode("utf-8", "surrogateescape")


def decode_entry(entry_id: bytes, pairs: Sequence[bytes]) -> Line | Damaged:
    """A journal line from an entry of the stream as the store replies it."""
    name = text_of(entry_id)
    try:
        return _line(name, _texts(pairs))
    except _Bad as bad:
        return Damaged(name, bad.difference)


def _texts(pairs: Sequence[bytes]) -> dict[str, str]:
    """The fields of an entry as those of a line in an archive."""
    names = [text_of(name) for name in pairs[::2]]
    stored = dict(zip(names, pairs[1::2], strict=True))
    if len(stored) < len(names):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise _Bad(twice, "once in a line", "twice")
    for name in ("did", "after"):
        if name not in stored:
            raise _Bad(name, "a field of every line", "none")
    fields = {name: text_of(value) for name, value in stored.items()}
    did, after = fields.pop("did").split(" ", 2), stored["after"]
    del fields["after"]
    unknown = sorted(fields.keys() - {"buckets", "cost", "bonus", "terms"})
    if unknown:
        raise _Bad(unknown[0], "no such field in a line", repr(fields[unknown[0]]))
    if len(did) != 3:
        raise _Bad("did", "<operation> <amount> <token>", repr(text_of(stored["did"])))
    if len(after) != FIGURES.size:
        raise _Bad("after", f"{FIGURES.size} bytes", repr(after))
    if "buckets" in stored:
        try:
            fields["buckets"] = _pack(unpack_buckets(stored["buckets"], errors="surrogateescape"))
        except NotAnAccount as error:
            raise _Bad("buckets", f"minute buckets: {error}", repr(stored["buckets"])) from None
    fields["op"], fields["amount"], fields["token"] = did
    figures = map(str, FIGURES.unpack(after))
    return fields | dict(zip(("seq", *Balances._fields), figures, strict=True))


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
        fields.get("terms"),
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


def decode_account(value: bytes) -> LiveAccount | Difference:
    """An account as the store holds it, as far as its journal speaks of it; or what is wrong with it."""
    try:
        seq, account = unpack_account("", value)
    except NotAnAccount as error:
        return Difference("value", f"an account: {error}", repr(value)[:MAX_SHOWN_CHARS])
    balances = Balances(
        account.credit_micros,
        account.sms_micros,
        account.traffic_micros,
        account.volume_discount_us,
        account.received_us,
    )
    for name, figure in zip(("seq", *Balances._fields), (seq, *balances), strict=True):
        if abs(figure) > LIMIT:
            return Difference(name, "an integer", str(figure))
    for index, bucket in enumerate(account.buckets):
        if not (
            0 <= bucket.seconds_us <= LIMIT
            and 0 <= bucket.price_nanos <= LIMIT
            and abs(bucket.priority) <= LIMIT
        ):
            shown = f"{bucket.seconds_us} {bucket.priority} {bucket.price_nanos} {bucket.destination}"
            return Difference(f"bucket {index}", "<seconds> <priority> <price> <destination>", repr(shown))
    return LiveAccount(seq, balances, account.buckets)


# --- writing ----------------------------------------------------------------------------------------


def encode_line(line: Line) -> dict[str, str]:
    """The fields of a line in an archive: the inverse of `decode_line`."""
    fields = {"seq": str(line.seq), "op": line.op, "amount": str(line.amount), "token": line.token}
    fields |= {name: str(value) for name, value in zip(Balances._fields, line.balances, strict=True)}
    if line.buckets is not None:
        fields["buckets"] = _pack(line.buckets)
    if line.cost is not None:
        fields["cost"] = str(line.cost)
    if line.bonus is not None:
        fields["bonus"] = " ".join(map(str, line.bonus))
    if line.terms is not None:
        fields["terms"] = line.terms
    return fields


def _pack(buckets: Sequence[Bucket]) -> str:
    texts = (f"{b.seconds_us} {b.priority} {b.price_nanos} {b.destination}" for b in buckets)
    return "".join(f"{len(text.encode('utf-8', 'surrogateescape'))}:{text}," for text in texts)


def id_order(entry_id: str) -> tuple[int, int]:
    """What entry ids are in order by."""
    ms, _, number = entry_id.partition("-")
    return int(ms), int(number)
