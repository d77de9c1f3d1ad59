"""What the store holds of accounts and journals, read by the written layout alone
(`rater.accounts.value`,
`rater.accounts.mutations`): nothing of the product's code is used, so a mistake there can't hide itself here.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

FIGURES = ("seq", "credit", "sms", "traffic", "volume_discount", "received")
_AT = {name: 8 + 8 * place for place, name in enumerate((*FIGURES, "min_credit"))}


def account_fields(value: bytes | None) -> dict[str, str]:
    """An account's figures as texts, `plan`, `type`, `reset_day`, `min_credit` where it has a floor, and its
    buckets as `bucket:<i>`, "<seconds> <priority> <price> <destination>". Empty where there is none.
    """
    if value is None:
        return {}
    assert value[:8] == b"RATELac1", value
    fields = {name: str(struct.unpack_from("<q", value, at)[0]) for name, at in _AT.items()}
    reset_day, kind, has_floor, count = value[64:68]
    assert kind < 4
    if not has_floor:
        assert fields.pop("min_credit") == "0"
    plan_end = 72 + int.from_bytes(value[68:72], "little")
    fields |= {"reset_day": str(reset_day), "type": ("prepaid", "postpaid")[kind % 2]}
    if kind >= 2:
        fields["blocked"] = "1"
    fields["plan"] = value[72:plan_end].decode()
    texts = bucket_texts(value[plan_end:])
    assert len(texts) == count
    return fields | {f"bucket:{place}": text for place, text in enumerate(texts)}


def bucket_texts(packed: bytes) -> list[str]:
    texts = []
    while packed:
        seconds, priority, price, size = struct.unpack_from("<qqqI", packed)
        texts.append(f"{seconds} {priority} {price} {packed[28 : 28 + size].decode()}")
        assert len(packed) >= 28 + size
        packed = packed[28 + size :]
    return texts


def line_fields(pairs: Sequence[bytes]) -> dict[str, bytes]:
    """A journal line's figures as texts, and whatever else its entry holds as it is."""
    fields = dict(zip((name.decode() for name in pairs[::2]), pairs[1::2], strict=True))
    after = struct.unpack("<6q", fields.pop("after"))
    op, amount, token = fields.pop("did").split(b" ", 2)
    figures = {name: b"%d" % figure for name, figure in zip(FIGURES, after, strict=True)}
    return {"op": op, "amount": amount, "token": token} | figures | fields


def entry_fields(line: dict[str, bytes]) -> list[bytes]:
    """The inverse of `line_fields`: what XADD is to be given."""
    rest = dict(line)
    did = b" ".join(rest.pop(name) for name in ("op", "amount", "token"))
    after = struct.pack("<6q", *(int(rest.pop(name)) for name in FIGURES))
    pairs = {b"did": did, b"after": after} | {name.encode(): value for name, value in rest.items()}
    return [word for pair in pairs.items() for word in pair]


def with_figures(value: bytes, **figures: int) -> bytes:
    """The account with some of its figures set, by another hand than the scripts'."""
    changed = bytearray(value)
    for name, figure in figures.items():
        struct.pack_into("<q", changed, _AT[name], figure)
    return bytes(changed)
