"""An account as the store holds it: one string, so that it is read and changed in one command.

| bytes | hold |
| --- | --- |
| 0–7 | `RATELac1`: the value is an account, in this format |
| 8–15 | `seq`, the sequence number of its last journal line, from 1 |
| 16–55 | `credit`, `sms`, `traffic`, `volume_discount`, `received`, micros |
| 56–63 | `min_credit`, the floor, micros; 0 where there is none |
| 64 | day of the month for the reset, 0 is none |
| 65 | 1 for postpaid, 0 for prepaid; and 2 more for blocked |
| 66 | 1 if there is a floor |
| 67 | how many minute buckets |
| 68–71 | length of the plan's id |
| 72… | the plan's id, then the buckets |

A bucket is `seconds` in micros, `priority`, `price` in nanos, the length of the destination's id in 4
bytes, and the id. Numbers are little-endian and signed integers of 8 bytes where nothing else is said, and
below 2⁵³, since the scripts compute with doubles. Texts are UTF-8, so a destination or a plan may have any
name. The scripts (`rater/lua`) read and write the same, piece by piece.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct
from struct import error as StructError  # noqa: N812 - by its name alone it would say nothing
from typing import Final

from common.money import LIMIT
from rater.model import MAX_BUCKETS, Account, Bucket

MAGIC: Final = b"RATELac1"
HEADER: Final = Struct("<8s7qBBBBI")
BLOCKED: Final = 2
FIGURES: Final = Struct("<6q")
"""The sequence number and the balances: what a journal line holds as well."""
_BUCKET: Final = Struct("<qqqI")

_read_header: Final = HEADER.unpack_from
_read_bucket: Final = _BUCKET.unpack_from
_HEADER_BYTES: Final = HEADER.size
_BUCKET_BYTES: Final = _BUCKET.size


class NotAnAccount(ValueError):
    """A value that no script has written; the text says what is wrong with it."""


def pack_account(account: Account, seq: int = 0) -> bytes:
    """Raises ValueError for figures out of range: the loader has refused them with their place before."""
    figures = (
        seq,
        account.credit_micros,
        account.sms_micros,
        account.traffic_micros,
        account.volume_discount_us,
        account.received_us,
        account.min_credit_micros or 0,
    )
    if any(abs(figure) > LIMIT for figure in figures) or not 0 <= account.reset_day <= 31:
        raise ValueError(f"a figure of {account.subject!r} is out of range")
    if len(account.buckets) > MAX_BUCKETS:
        raise ValueError(f"{account.subject!r} has more than {MAX_BUCKETS} minute buckets")
    plan = account.plan.encode()
    kind = account.postpaid + BLOCKED * account.blocked
    flags = (account.reset_day, kind, account.min_credit_micros is not None)
    header = HEADER.pack(MAGIC, *figures, *flags, len(account.buckets), len(plan))
    return header + plan + pack_buckets(account.buckets)


def unpack_account(subject: str, value: bytes) -> tuple[int, Account]:
    """The sequence number of its last journal line, and the account. Raises NotAnAccount."""
    try:
        (
            magic, seq, credit, sms, traffic, volume_discount, received, floor,
            reset_day, kind, has_floor, count, plan_size,
        ) = _read_header(value)  # fmt: skip
        if magic != MAGIC:
            raise NotAnAccount(f"it begins with {value[:8]!r}")
        at = _HEADER_BYTES + plan_size
        plan = value[_HEADER_BYTES:at].decode() if plan_size else ""
        buckets: tuple[Bucket, ...] = ()
        for _ in range(count):
            seconds, priority, price, size = _read_bucket(value, at)
            begin = at + _BUCKET_BYTES
            at = begin + size
            buckets += (Bucket(value[begin:at].decode(), seconds, priority, price),)
        if at != len(value):
            raise NotAnAccount("its length is another one than it says")
    except StructError:
        raise NotAnAccount("it is too short") from None
    except UnicodeDecodeError:
        raise NotAnAccount("a name in it is not UTF-8") from None
    account = Account(
        subject, credit, sms, traffic, volume_discount, received, reset_day, plan, kind & 1 == 1,
        floor if has_floor == 1 else None, buckets, kind >= BLOCKED,
    )  # fmt: skip
    return seq, account


def pack_buckets(buckets: Iterable[Bucket]) -> bytes:
    """Raises ValueError for figures out of range."""
    return b"".join(map(_pack_bucket, buckets))


def pack_terms(bucket: Bucket) -> bytes:
    """A bucket without its seconds. Raises ValueError for figures out of range, also for the seconds."""
    return _pack_bucket(bucket)[8:]


def _pack_bucket(bucket: Bucket) -> bytes:
    for figure, least in ((bucket.seconds_us, 0), (bucket.price_nanos, 0), (bucket.priority, -LIMIT)):
        if not least <= figure <= LIMIT:
            raise ValueError(f"a minute bucket of {bucket.destination!r} has a figure out of range: {figure}")
    name = bucket.destination.encode()
    return _BUCKET.pack(bucket.seconds_us, bucket.priority, bucket.price_nanos, len(name)) + name


def unpack_buckets(text: bytes, *, errors: str = "strict") -> tuple[Bucket, ...]:
    """All the buckets that a text consists of. Raises NotAnAccount."""
    buckets: list[Bucket] = []
    at = 0
    try:
        while at < len(text):
            seconds, priority, price, size = _read_bucket(text, at)
            begin = at + _BUCKET_BYTES
            at = begin + size
            buckets.append(Bucket(text[begin:at].decode("utf-8", errors), seconds, priority, price))
    except StructError:
        raise NotAnAccount("it is too short") from None
    except UnicodeDecodeError:
        raise NotAnAccount("a name in it is not UTF-8") from None
    if at != len(text):
        raise NotAnAccount("it is too short")
    return tuple(buckets)
