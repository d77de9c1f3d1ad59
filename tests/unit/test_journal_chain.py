"""The journal's arithmetic: a right history has no findings, each change by another hand is named."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.money import LIMIT
from rater.accounts.value import pack_account, pack_buckets
from rater.journal.chain import KEY_TTL_MS, Finding, check_archive, check_stretch
from rater.journal.lines import (
    Balances,
    BonusFigures,
    Damaged,
    Difference,
    Line,
    LiveAccount,
    decode_account,
    decode_entry,
    decode_line,
    encode_line,
)
from rater.model import MAX_BUCKETS, Account, Bucket
from tests.stored import entry_fields, with_figures

S = 1_000_000
FREE = Bucket("NAT", 60 * S, 10, 0)
PAID = Bucket("RIF\n", 100 * S, 0, 333_333_333)
BONUS = Bucket("NAT", 30 * S, 5, 0)


def seconds(bucket: Bucket, seconds_us: int) -> Bucket:
    return Bucket(bucket.destination, seconds_us, bucket.priority, bucket.price_nanos)


def after(line: Line, op: str, amount: int = 0, **changes: Any) -> Line:
    """The line that follows: its own fields by name, and balances."""
    balances = {name: changes.pop(name) for name in Balances._fields if name in changes}
    token = changes.pop("token", f"g:b-{line.seq + 1}")
    return Line(
        f"{1_000 + line.seq}-0",
        line.seq + 1,
        op,
        amount,
        token,
        line.balances._replace(**balances),
        **changes,
    )


def history() -> list[Line]:
    """Every operation, and both ways where there are two. The figures are worked out by hand."""
    lines = [Line("1000-0", 1, "Open", 0, "", Balances(500 * S, 20 * S, 7, 3, 5), (FREE, PAID))]

    def add(op: str, amount: int = 0, **changes: Any) -> None:
        lines.append(after(lines[-1], op, amount, **changes))

    add("DebitBalance", 1, credit=500 * S - 1)
    add("DebitBalance", -2 * S, credit=502 * S - 1)
    add("DebitSMS", 3 * S, sms=17 * S)
    add("AddVolumeDiscountSeconds", 10 * S, volume_discount=10 * S + 3)
    add("ResetVolumeDiscountSeconds", volume_discount=0)
    # 60 s free, then 10 s at 0.333333333: 3.333333 cents.
    used = (seconds(FREE, 0), seconds(PAID, 90 * S))
    add("DebitSeconds", 70 * S, credit=502 * S - 1 - 3_333_333, cost=3_333_333, buckets=used)
    # 1 s back: 0.333333 cents.
    back = (seconds(FREE, 0), seconds(PAID, 91 * S))
    add("DebitSeconds", -S, credit=502 * S - 1 - 3_000_000, cost=-333_333, buckets=back)
    add("DebitSeconds", 0, cost=0, buckets=back)
    add("AddRecievedCallSeconds", 50 * S, received=50 * S + 5)
    # Threshold 40 s, reached twice; 1 cent, 2 SMS, and 15 s each time in a new bucket.
    bonus = BonusFigures(2, 80 * S, 2 * S, 4 * S, 0)
    given = (*back, BONUS)
    more = {"credit": 501 * S - 1, "sms": 21 * S, "received": 10 * S + 5}
    add("AddRecievedCallSeconds", 40 * S, bonus=bonus, buckets=given, **more)
    bonus = BonusFigures(1, 40 * S, 0, 0, -9)
    given = (*back, seconds(BONUS, 45 * S))
    add("AddRecievedCallSeconds", 31 * S, bonus=bonus, buckets=given, received=S + 5, traffic=-2)
    add("DebitSeconds", 0, cost=0, buckets=given)
    add("ResetUserBudget", sms=9, traffic=8, buckets=(PAID,))
    add("DebitSeconds", 0, cost=0, buckets=(PAID,))
    add("Load", token="", credit=-1, sms=0, traffic=0, received=0, buckets=())
    add("DebitBalance", S, credit=-1 - S, token="c:client")
    return lines


def account_after(line: Line, buckets: tuple[Bucket, ...] = ()) -> LiveAccount:
    return LiveAccount(line.seq, line.balances, buckets)


LINES = history()
ACCOUNT = account_after(LINES[-1])


def named(findings: list[Finding]) -> list[tuple[int | None, str]]:
    return [(finding.seq, finding.difference.field) for finding in findings]


def test_a_right_history_has_no_findings() -> None:
    assert check_stretch(LINES, ACCOUNT) == []


@pytest.mark.parametrize("begin", range(len(LINES)))
def test_every_later_part_of_a_right_history_has_no_findings(begin: int) -> None:
    assert check_stretch(LINES[begin:], ACCOUNT) == []


def figures(line: Line) -> Iterator[tuple[str, Line]]:
    """The line with each of its figures changed by the least possible."""
    for name in ("seq", "amount", "cost"):
        if (value := getattr(line, name)) is not None:
            yield name, line._replace(**{name: value + 1})
    for name in Balances._fields:
        value = getattr(line.balances, name)
        yield name, line._replace(balances=line.balances._replace(**{name: value + 1}))
    for name in BonusFigures._fields[1:]:  # how many times can't be told from the totals
        if line.bonus is not None:
            value = getattr(line.bonus, name)
            yield name, line._replace(bonus=line.bonus._replace(**{name: value + 1}))
    for i, bucket in enumerate(line.buckets or ()):
        assert line.buckets is not None
        for changed in (
            seconds(bucket, bucket.seconds_us + 1),
            Bucket(bucket.destination, bucket.seconds_us, bucket.priority + 1, bucket.price_nanos),
            Bucket(bucket.destination, bucket.seconds_us, bucket.priority, bucket.price_nanos + 1),
            Bucket(bucket.destination + "x", bucket.seconds_us, bucket.priority, bucket.price_nanos),
        ):
            yield "buckets", line._replace(buckets=(*line.buckets[:i], changed, *line.buckets[i + 1 :]))
        yield "buckets", line._replace(buckets=(*line.buckets[:i], *line.buckets[i + 1 :]))


TAMPERED = [(i, what, changed) for i, line in enumerate(LINES) for what, changed in figures(line)]


@pytest.mark.parametrize(("i", "what", "changed"), TAMPERED, ids=lambda value: str(value)[:20])
def test_every_figure_of_every_line_is_held_to_its_neighbours(i: int, what: str, changed: Line) -> None:
    findings = check_stretch([*LINES[:i], changed, *LINES[i + 1 :]], ACCOUNT)
    assert findings
    near = {LINES[i].seq, LINES[i].seq + 1, changed.seq}
    if what == "buckets":  # the next line that states them
        near.add(next(line.seq for line in LINES[i + 1 :] if line.buckets is not None))
    assert {finding.seq for finding in findings} <= near


def test_a_changed_amount_is_named_to_the_micro_cent() -> None:
    changed = [*LINES[:1], LINES[1]._replace(amount=2), *LINES[2:]]
    assert check_stretch(changed, ACCOUNT) == [
        Finding(2, Difference("credit", "499.999998", "499.999999")),
    ]


def test_a_removed_line_is_named() -> None:
    for i in range(1, len(LINES)):
        found = named(check_stretch([*LINES[:i], *LINES[i + 1 :]], ACCOUNT))
        end = [(LINES[-2].seq, f"account {name}") for name in ("seq", "credit")]
        assert found == ([(i + 2, "seq")] if i + 1 < len(LINES) else end)


def test_a_doubled_line_is_named_with_its_token() -> None:
    for i, line in enumerate(LINES):
        found = named(check_stretch([*LINES[: i + 1], line, *LINES[i + 1 :]], ACCOUNT))
        assert (line.seq, "seq") in found
        assert (line.seq, "id") in found
        assert ((line.seq, "token") in found) == bool(line.token)


def test_lines_that_changed_places_are_named() -> None:
    found = named(check_stretch([LINES[0], LINES[2], LINES[1], *LINES[3:]], ACCOUNT))
    assert (3, "seq") in found
    assert (2, "seq") in found


@pytest.mark.parametrize("name", Balances._fields)
def test_a_balance_changed_in_the_account_is_named(name: str) -> None:
    balances = ACCOUNT.balances._replace(**{name: getattr(ACCOUNT.balances, name) + 1})
    found = check_stretch(LINES, ACCOUNT._replace(balances=balances))
    assert named(found) == [(LINES[-1].seq, f"account {name}")]


def test_a_bucket_and_a_seq_changed_in_the_account_are_named() -> None:
    assert named(check_stretch(LINES, ACCOUNT._replace(buckets=(FREE,)))) == [(17, "account buckets")]
    assert named(check_stretch(LINES, ACCOUNT._replace(seq=18))) == [(17, "account seq")]


def test_buckets_that_no_line_of_a_stretch_states_are_not_held_to_anything() -> None:
    assert check_stretch(LINES[1:3], account_after(LINES[2], (PAID,))) == []


# --- rules of single operations ---------------------------------------------------------------------


def one_step(
    before: tuple[Bucket, ...], op: str, amount: int, **changes: Any
) -> list[tuple[int | None, str]]:
    opening = Line("1-0", 1, "Open", 0, "", Balances(0, 0, 0, 0, 0), before)
    line = after(opening, op, amount, **changes)
    return named(check_stretch([opening, line], None))


def test_seconds_are_taken_from_one_bucket_after_the_other() -> None:
    two = (seconds(FREE, 10), seconds(FREE, 10))
    taken = (seconds(FREE, 5), seconds(FREE, 5))
    assert one_step(two, "DebitSeconds", 10, cost=0, buckets=taken) == [(2, "buckets")]
    assert not one_step(two, "DebitSeconds", 10, cost=0, buckets=(seconds(FREE, 0), two[1]))


def test_seconds_don_t_wander_between_buckets() -> None:
    two, moved = (seconds(FREE, 10), seconds(FREE, 10)), (seconds(FREE, 0), seconds(FREE, 20))
    assert (2, "buckets") in one_step(two, "DebitSeconds", 0, cost=0, buckets=moved)


def test_each_bucket_s_cost_is_rounded_for_itself() -> None:
    two = (Bucket("a", 1, 0, 500_000_000), Bucket("b", 1, 0, 500_000_000))
    used = tuple(seconds(bucket, 0) for bucket in two)
    assert not one_step(two, "DebitSeconds", 2, cost=2, credit=-2, buckets=used)
    assert one_step(two, "DebitSeconds", 2, cost=1, credit=-1, buckets=used) == [(2, "cost")]


def test_a_bonus_goes_to_the_first_bucket_of_its_terms() -> None:
    two = (BONUS, BONUS)
    bonus = BonusFigures(1, 10, 0, 0, 0)
    first, second = (seconds(BONUS, 31 * S), BONUS), (BONUS, seconds(BONUS, 31 * S))
    assert not one_step(two, "AddRecievedCallSeconds", 10, bonus=bonus, buckets=first)
    assert one_step(two, "AddRecievedCallSeconds", 10, bonus=bonus, buckets=second) == [(2, "buckets")]
    assert one_step(two, "AddRecievedCallSeconds", 10, bonus=bonus, buckets=(BONUS,)) == [(2, "buckets")]
    assert one_step(two, "AddRecievedCallSeconds", 0, buckets=two) == [(2, "buckets")]


def test_a_bonus_is_a_multiple_of_its_times_and_leaves_less_than_one_threshold() -> None:
    odd = BonusFigures(2, 11, 0, 0, 0)
    assert (2, "bonus") in one_step((), "AddRecievedCallSeconds", 11, bonus=odd)
    half = BonusFigures(1, 10, 0, 0, 0)
    assert one_step((), "AddRecievedCallSeconds", 20, bonus=half, received=10) == [(2, "received")]


def test_operations_without_an_amount_have_none() -> None:
    assert one_step((), "ResetVolumeDiscountSeconds", 1) == [(2, "amount")]
    assert one_step((), "ResetUserBudget", 1, buckets=()) == [(2, "amount")]


def test_an_account_is_opened_once_and_first() -> None:
    assert named(check_stretch([LINES[1]._replace(seq=1)], None)) == [(1, "op")]
    assert one_step((), "Open", 0, buckets=()) == [(2, "op")]


def test_more_buckets_than_an_account_may_have_are_named() -> None:
    assert one_step((), "ResetUserBudget", 0, buckets=(FREE,) * (MAX_BUCKETS + 1)) == [(2, "buckets")]


# --- tokens -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "later_ms", "found"),
    [
        ("c:key", KEY_TTL_MS, True),
        ("c:key", KEY_TTL_MS + 1, False),  # it was forgotten: another request
        ("g:b-1", KEY_TTL_MS + 1, True),
        ("", 0, False),
    ],
)
def test_a_token_comes_once_while_it_is_remembered(token: str, later_ms: int, found: bool) -> None:
    opening = Line("1-0", 1, "Open", 0, "", Balances(0, 0, 0, 0, 0), ())
    first = after(opening, "DebitSMS", token=token)
    second = after(first, "DebitSMS", token=token)
    second = second._replace(id=f"{1_001 + later_ms}-5")
    expected = [(3, "token")] if found else []
    assert named(check_stretch([opening, first, second], None)) == expected


# --- texts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line.seq}-{line.op}")
def test_a_line_is_the_same_after_its_texts(line: Line) -> None:
    fields = encode_line(line)
    assert decode_line(line.id, fields) == line


@given(
    st.lists(
        st.builds(
            Bucket,
            st.text().map(lambda text: text.encode("utf-8", "replace").decode()),
            st.integers(0, LIMIT),
            st.integers(-LIMIT, LIMIT),
            st.integers(0, LIMIT),
        ),
        max_size=5,
    )
)
def test_any_buckets_are_the_same_after_their_text(buckets: list[Bucket]) -> None:
    line = LINES[0]._replace(buckets=tuple(buckets))
    assert decode_line(line.id, encode_line(line)) == line


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("seq", "01"),
        ("seq", ""),
        ("amount", "1.5"),
        ("amount", "-0"),
        ("credit", "９"),
        ("credit", str(LIMIT + 1)),
        ("op", "Steal"),
        ("op", None),
        ("token", None),
        ("sms", None),
        ("cost", "1"),
        ("surplus", "1"),
        ("buckets", ""),
    ],
)
def test_what_the_scripts_would_not_write_is_no_line(field: str, text: str | None) -> None:
    fields = encode_line(LINES[1])
    fields.pop(field, None)
    if text is not None:
        fields[field] = text
    damaged = decode_line("1-0", fields)
    assert isinstance(damaged, Damaged)
    assert damaged.difference.field == field


@pytest.mark.parametrize(
    "text",
    ["5", "5:abc", "5:1 0 0 ,", "05:1 0 0,", "7:1 0 0 a;", "7:x 0 0 a,", "7:01 0 0a,", "99:1 0 0 a,", "-1:,"],
)
def test_buckets_that_are_none_are_damage(text: str) -> None:
    damaged = decode_line("1-0", encode_line(LINES[0]) | {"buckets": text})
    assert isinstance(damaged, Damaged)
    assert damaged.difference.field == "buckets"


@pytest.mark.parametrize("text", ["", "1", "1 2 3 4", "1 2 3 4 5 6", "1 2 3 4 x"])
def test_a_bonus_has_five_figures(text: str) -> None:
    damaged = decode_line("1-0", encode_line(LINES[9]) | {"bonus": text})
    assert isinstance(damaged, Damaged)
    assert damaged.difference.field == "bonus"


def test_a_field_that_stands_twice_in_a_line_is_damage() -> None:
    damaged = decode_entry(b"1-0", [*entry(LINES[1]), b"did", b"DebitBalance 1 x"])
    assert damaged == Damaged("1-0", Difference("did", "once in a line", "twice"))


def entry(line: Line, **changes: bytes | None) -> list[bytes]:
    """The entry of the stream that a script writes for a line; `changes` are by another hand."""
    figures = dict(zip(("seq", *Balances._fields), (line.seq, *line.balances), strict=True))
    fields = {"op": line.op, "amount": str(line.amount), "token": line.token}
    texts = {name: text.encode("utf-8", "surrogateescape") for name, text in fields.items()}
    texts |= {name: b"%d" % figure for name, figure in figures.items()}
    if line.buckets is not None:
        texts["buckets"] = pack_buckets(line.buckets)
    if line.cost is not None:
        texts["cost"] = b"%d" % line.cost
    if line.bonus is not None:
        texts["bonus"] = " ".join(map(str, line.bonus)).encode()
    words = entry_fields(texts)
    stored = dict(zip(words[::2], words[1::2], strict=True))
    for name, value in changes.items():
        stored.pop(name.encode(), None)
        if value is not None:
            stored[name.encode()] = value
    return [word for pair in stored.items() for word in pair]


@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line.seq}-{line.op}")
def test_a_line_is_read_from_its_entry(line: Line) -> None:
    assert decode_entry(line.id.encode(), entry(line)) == line
    odd = line._replace(token=" a  b\n\U0001f4de\udcff ")
    assert decode_entry(line.id.encode(), entry(odd)) == odd


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"did": None}, "did"),
        ({"after": None}, "after"),
        ({"did": b"DebitBalance 1"}, "did"),
        ({"did": b""}, "did"),
        ({"did": b"Steal 1 x"}, "op"),
        ({"did": b" 1 x"}, "op"),
        ({"did": b"DebitBalance  x"}, "amount"),
        ({"did": b"DebitBalance 01 x"}, "amount"),
        ({"did": b"DebitBalance 1.5 x"}, "amount"),
        ({"did": b"DebitBalance \xff1 x"}, "amount"),
        ({"after": bytes(47)}, "after"),
        ({"after": bytes(49)}, "after"),
        ({"after": struct.pack("<6q", 2, LIMIT + 1, 0, 0, 0, 0)}, "credit"),
        ({"after": struct.pack("<6q", -LIMIT - 1, 0, 0, 0, 0, 0)}, "seq"),
        ({"seq": b"2"}, "seq"),
        ({"token": b"x"}, "token"),
        ({"cost": b"1"}, "cost"),
        ({"surplus": b"1"}, "surplus"),
        ({"buckets": b""}, "buckets"),
    ],
)
def test_an_entry_that_no_script_wrote_is_damage(changes: dict[str, bytes | None], field: str) -> None:
    damaged = decode_entry(b"1-0", entry(LINES[1], **changes))
    assert isinstance(damaged, Damaged)
    assert damaged.difference.field == field


@pytest.mark.parametrize(
    "packed",
    [
        b"x",
        pack_buckets([FREE])[:-1],
        pack_buckets([FREE]) + b"x",
        struct.pack("<qqqI", -1, 0, 0, 0),
        struct.pack("<qqqI", LIMIT + 1, 0, 0, 0),
        struct.pack("<qqqI", 1, 0, -1, 0),
    ],
)
def test_packed_buckets_that_are_none_are_damage(packed: bytes) -> None:
    damaged = decode_entry(b"1-0", entry(LINES[0], buckets=packed))
    assert isinstance(damaged, Damaged)
    assert damaged.difference.field == "buckets"


def test_a_damaged_line_is_named_and_the_chain_goes_on_behind_it() -> None:
    damage = Damaged("1001-0", Difference("amount", "an integer", "'x'"))
    assert named(check_stretch([LINES[0], damage, *LINES[2:]], ACCOUNT)) == [(2, "amount")]
    assert named(check_stretch([LINES[0], damage, *LINES[3:]], ACCOUNT)) == [(2, "amount"), (4, "seq")]


def test_an_account_is_read_and_what_is_wrong_with_it_is_named() -> None:
    value = pack_account(Account("", 1, 2, 3, 4, 5, plan="x", buckets=(FREE, PAID)), 2)
    assert decode_account(value) == LiveAccount(2, Balances(1, 2, 3, 4, 5), (FREE, PAID))
    for field, damaged in (
        ("credit", with_figures(value, credit=LIMIT + 1)),
        ("seq", with_figures(value, seq=-LIMIT - 1)),
        ("bucket 0", value[:73] + struct.pack("<q", -1) + value[81:]),
        ("bucket 1", value.replace(struct.pack("<q", 333_333_333), struct.pack("<q", -1))),
        ("value", b""),
        ("value", value[:71]),
        ("value", value[:-1]),
        ("value", value + b"x"),
        ("value", b"RATELac2" + value[8:]),
        ("value", value.replace(b"RIF", b"\xff\xff\xff")),
    ):
        difference = decode_account(damaged)
        assert isinstance(difference, Difference), field
        assert difference.field == field


# --- archives ---------------------------------------------------------------------------------------


def test_lines_that_are_archived_and_retained_are_compared() -> None:
    assert check_archive(LINES, LINES[5:]) == []
    assert check_archive(LINES[:9], LINES[5:]) == []
    assert check_archive(LINES, []) == []
    assert named(check_archive(LINES, LINES[5:-1])) == [(17, "line")]
    assert named(check_archive(LINES, [*LINES[5:7], *LINES[8:]])) == [(8, "line")]
    for i, _, changed in TAMPERED:
        if changed.seq == LINES[i].seq:
            assert {
                seq for seq, _ in named(check_archive([*LINES[:i], changed, *LINES[i + 1 :]], LINES))
            } == {i + 1}
    changed = LINES[1]._replace(amount=5, id="7-7")
    assert check_archive([changed], LINES) == [
        Finding(2, Difference("archived amount", "0.000005", "0.000001")),
        Finding(2, Difference("archived id", "'7-7'", "'1001-0'")),
    ]
