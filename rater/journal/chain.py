"""The arithmetic of an account's journal, worked out anew from the lines' own figures.

A journal (`rater.accounts.mutations` has its fields) is a chain: a line holds the change and the balances
after it, so
balances before + change = balances after for every two neighbours, and the last line's balances are
the account's. What a line can't prove is what depended on the tariff at the time: which buckets matched a
number, what a plan's figures were. So DebitSeconds is held to its amount, its cost and the order in
which buckets run empty, a bonus and a reset to the figures that the line states.

A stretch that begins later than with the opening is taken to be right at its first line. That line may
leave the buckets open, until one states them: before that, a debit of seconds is not worked out.

Nothing here stops at the first difference: after one, the chain goes on from what the line says,
so that each change made by another hand is named once or at its two neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from common.money import MICRO, format_micros, price_of
from rater.journal.lines import (
    MAX_SHOWN_CHARS,
    Balances,
    BonusFigures,
    Damaged,
    Difference,
    Line,
    LiveAccount,
    encode_line,
    id_order,
)
from rater.model import MAX_BUCKETS, Bucket

CLIENT_TOKEN: Final = "c:"
"""What the token of a request that a client gave a key begins with. Such a key may come again once it is
forgotten; no other token ever does. Source: docs/api.md, "Exactly once"."""

KEY_TTL_MS: Final = 86_400_000
"""For how long raters remember a client's key unless told otherwise."""


class Finding(NamedTuple):
    seq: int | None
    """The line's; None where it is about no line."""
    difference: Difference


class State(NamedTuple):
    """What is known of an account after a line."""

    seq: int
    balances: Balances
    buckets: tuple[Bucket, ...] | None


# --- one line -----------------------------------------------------------------------------------------


def state_after(before: State | None, line: Line) -> State:
    buckets = line.buckets
    if buckets is None and before is not None and before.seq + 1 == line.seq:
        buckets = before.buckets
    return State(line.seq, line.balances, buckets)


def check_line(before: State | None, line: Line) -> list[Difference]:
    """What in the line does not follow from the state before it; None where the stretch begins.

    Across a gap only the gap is told: nothing else can be worked out.
    """
    if before is not None and line.seq != before.seq + 1:
        return [Difference("seq", str(before.seq + 1), str(line.seq))]
    found: list[Difference] = []
    if (line.op == "Open") != (line.seq == 1):
        found.append(Difference("op", "Open, and only there" if line.seq == 1 else "not Open", line.op))
    if line.op not in _AMOUNTS and line.amount:
        found.append(_micros("amount", 0, line.amount))
    if line.buckets is not None and len(line.buckets) > MAX_BUCKETS:
        found.append(Difference("buckets", f"at most {MAX_BUCKETS}", str(len(line.buckets))))
    if line.bonus is not None:
        found += _check_bonus(line.bonus, line)
    if before is None:
        return found
    expected = _EXPECTED[line.op](before.balances, line)
    for name, wanted, value in zip(Balances._fields, expected, line.balances, strict=True):
        if wanted != value:
            found.append(_micros(name, wanted, value))
    if before.buckets is not None and line.buckets is not None:
        if line.op == "DebitSeconds":
            found += _check_seconds(before.buckets, line.buckets, line)
        elif line.op == "AddRecievedCallSeconds":
            found += _check_bonus_bucket(before.buckets, line.buckets, line.bonus)
    return found


def _micros(field: str, expected: int, found: int) -> Difference:
    return Difference(field, format_micros(expected), format_micros(found))


def _received(before: Balances, line: Line) -> Balances:
    bonus = line.bonus or BonusFigures(0, 0, 0, 0, 0)
    return Balances(
        before.credit + bonus.credit,
        before.sms + bonus.sms,
        before.traffic + bonus.traffic,
        before.volume_discount,
        before.received + line.amount - bonus.received,
    )


_EXPECTED: Final[dict[str, Callable[[Balances, Line], Balances]]] = {
    "Open": lambda _, line: line.balances,
    "Load": lambda _, line: line.balances,
    "DebitBalance": lambda before, line: before._replace(credit=before.credit - line.amount),
    "DebitSMS": lambda before, line: before._replace(sms=before.sms - line.amount),
    "DebitSeconds": lambda before, line: before._replace(credit=before.credit - (line.cost or 0)),
    "AddVolumeDiscountSeconds": lambda before, line: before._replace(
        volume_discount=before.volume_discount + line.amount
    ),
    "ResetVolumeDiscountSeconds": lambda before, _: before._replace(volume_discount=0),
    "AddRecievedCallSeconds": _received,
    "SetTerms": lambda before, _: before,
    "ResetUserBudget": lambda before, line: before._replace(
        sms=line.balances.sms, traffic=line.balances.traffic
    ),
}
"""The balances after an operation, from those before it."""

_AMOUNTS: Final = frozenset(
    ("DebitBalance", "DebitSMS", "DebitSeconds", "AddVolumeDiscountSeconds", "AddRecievedCallSeconds")
)


def _check_bonus(bonus: BonusFigures, line: Line) -> list[Difference]:
    """The totals are multiples of the times, and less than one threshold is left on the counter."""
    if bonus.times < 1 or any(total % bonus.times for total in bonus):
        return [Difference("bonus", "multiples of the times that it was given", " ".join(map(str, bonus)))]
    threshold = bonus.received // bonus.times
    if not 0 <= line.balances.received < threshold:
        below = f"at least 0 and less than {format_micros(threshold)}"
        return [Difference("received", below, format_micros(line.balances.received))]
    return []


def _terms(bucket: Bucket) -> tuple[int, int, str]:
    return bucket.priority, bucket.price_nanos, bucket.destination


def buckets_text(buckets: Sequence[Bucket]) -> str:
    """Buckets as findings show them."""
    shown = (
        f"{format_micros(b.seconds_us)} s of {b.destination!r} (priority {b.priority}, price {b.price_nanos})"
        for b in buckets
    )
    return "; ".join(shown)[:MAX_SHOWN_CHARS] or "none"


def _buckets(expected: str, found: Sequence[Bucket]) -> list[Difference]:
    return [Difference("buckets", expected, buckets_text(found))]


def _check_seconds(before: tuple[Bucket, ...], after: tuple[Bucket, ...], line: Line) -> list[Difference]:
    if tuple(map(_terms, before)) != tuple(map(_terms, after)):
        return _buckets("those of " + buckets_text(before), after)
    changes = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    taken = sum(old.seconds_us - new.seconds_us for old, new in changes)
    found = []
    if taken != line.amount:
        found += [
            Difference("buckets", f"{format_micros(line.amount)} s less", f"{format_micros(taken)} s less")
        ]
    # Of several that were used, all but the last are used up; seconds are given back to one.
    begun = [new for _, new in changes if new.seconds_us]
    if len(begun) > 1 or any((new.seconds_us > old.seconds_us) != (line.amount < 0) for old, new in changes):
        found += _buckets("one that is not used up", after)
    cost = sum(_price(old, old.seconds_us - new.seconds_us) for old, new in changes)
    if cost != line.cost:
        found.append(_micros("cost", cost, line.cost or 0))
    return found


def _price(bucket: Bucket, taken_us: int) -> int:
    """What so many of a bucket's seconds cost; below zero what is given back for them."""
    price = price_of(abs(taken_us), bucket.price_nanos, MICRO)
    return price if taken_us > 0 else -price


def _check_bonus_bucket(
    before: tuple[Bucket, ...], after: tuple[Bucket, ...], bonus: BonusFigures | None
) -> list[Difference]:
    """The first bucket of the bonus' terms has gained, or a new one stands last."""
    if bonus is None or bonus.times < 1:
        return _buckets("not stated without a bonus", after)
    terms = [_terms(bucket) for bucket in before]
    changed = [i for i, bucket in enumerate(after) if i >= len(before) or bucket != before[i]]
    if len(after) < len(before) or len(changed) != 1:
        return _buckets("one changed since " + buckets_text(before), after)
    place = changed[0]
    new = after[place]
    known = place < len(before)
    first = terms.index(_terms(new)) if _terms(new) in terms else len(before)
    gain = new.seconds_us - (before[place].seconds_us if known else 0)
    if place != first or gain < 1 or gain % bonus.times:
        return _buckets(f"a multiple of {bonus.times} more than " + buckets_text(before), after)
    return []


# --- a stretch ------------------------------------------------------------------------------------------


def check_stretch(
    lines: Iterable[Line | Damaged], account: LiveAccount | None, *, key_ttl_ms: int = KEY_TTL_MS
) -> list[Finding]:
    """All that is wrong with a stretch of lines, oldest first, and with where it ends: the live account.

    `account` None leaves the end alone; `key_ttl_ms` is how long raters remember a client's key.
    """
    findings: list[Finding] = []
    state: State | None = None
    last_seq: int | None = None
    last_id = (-1, -1)
    tokens: dict[str, tuple[int, int]] = {}
    for line in lines:
        if isinstance(line, Damaged):
            findings.append(Finding(None if last_seq is None else last_seq + 1, line.difference))
            state, last_seq = None, None if last_seq is None else last_seq + 1
            continue
        if state is None and last_seq is not None and line.seq != last_seq + 1:
            findings.append(Finding(line.seq, Difference("seq", str(last_seq + 1), str(line.seq))))
        findings += (Finding(line.seq, difference) for difference in check_line(state, line))
        entry_id = id_order(line.id)
        if entry_id <= last_id:
            findings.append(Finding(line.seq, Difference("id", "later than the line before", line.id)))
        findings += _check_token(tokens, line, entry_id[0], key_ttl_ms)
        state, last_seq, last_id = state_after(state, line), line.seq, entry_id
    if account is not None and state is not None:
        findings += _check_end(state, account)
    return findings


def _check_token(
    tokens: dict[str, tuple[int, int]], line: Line, now_ms: int, key_ttl_ms: int
) -> list[Finding]:
    if not line.token:  # openings from files have none
        return []
    known = tokens.get(line.token)
    tokens[line.token] = (line.seq, now_ms)
    if known is None or (line.token.startswith(CLIENT_TOKEN) and now_ms - known[1] > key_ttl_ms):
        return []
    once = f"a token of its own, not that of seq {known[0]}"
    return [Finding(line.seq, Difference("token", once, repr(line.token)[:MAX_SHOWN_CHARS]))]


def _check_end(state: State, account: LiveAccount) -> list[Finding]:
    found = []
    if state.seq != account.seq:
        found.append(Difference("account seq", str(state.seq), str(account.seq)))
    for name, wanted, value in zip(Balances._fields, state.balances, account.balances, strict=True):
        if wanted != value:
            found.append(_micros(f"account {name}", wanted, value))
    if state.buckets is not None and state.buckets != account.buckets:
        found.append(
            Difference("account buckets", buckets_text(state.buckets), buckets_text(account.buckets))
        )
    return [Finding(state.seq, difference) for difference in found]


def check_archive(archived: Sequence[Line], retained: Sequence[Line | Damaged]) -> list[Finding]:
    """Lines that are both in archives and in the store are the same; the store has none lost since.

    Archived lines from before the store's first one are not looked at: they come before it in the chain.
    """
    held = {line.seq: line for line in retained if isinstance(line, Line)}
    if not held:
        return []
    begin = min(held)
    findings = []
    for line in archived:
        found = held.get(line.seq)
        if line.seq < begin or found == line:
            continue
        if found is None:
            missing = Difference("line", "in the store as in the archive", "none")
            findings.append(Finding(line.seq, missing))
            continue
        wanted, stated = {"id": line.id} | encode_line(line), {"id": found.id} | encode_line(found)
        for name in sorted(wanted.keys() | stated.keys()):
            expected, value = wanted.get(name), stated.get(name)
            if expected != value:
                shown = Difference(f"archived {name}", _shown(name, expected), _shown(name, value))
                findings.append(Finding(line.seq, shown))
    return findings


def _shown(field: str, text: str | None) -> str:
    if text is None:
        return "none"
    if field in Balances._fields or field in ("amount", "cost"):
        return format_micros(int(text))
    return repr(text)[:MAX_SHOWN_CHARS]
