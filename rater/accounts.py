"""Accounts: the commands that read and change them, and what the store's replies mean.

A mutation is one script (`rater.scripts`) under one token. Its reply is a word and figures:
`OK <result>`, a refusal with the figures that its message needs, `Plan <id>`, `Expired`,
`UnknownSubject` or `KeyReused`; an asterisk in front marks a replay. `OK` and refusals are stored
under the token, together with a fingerprint of the request (method, amount, destination), for its
time to live after its last use: a replay begins it anew. The others decided nothing and are not stored.

Every mutation that was carried out, and every opening, is a line in the account's journal, a stream
whose entry ids are the times. A line's fields:

| field | holds |
| --- | --- |
| `seq` | 1, 2, 3 … without gaps |
| `op` | the method's name; `Open` for a new account, `Load` for one that was replaced |
| `amount` | as requested, micros; 0 where the method has none |
| `token` | the token |
| `credit`, `sms`, `traffic`, `volume_discount`, `received` | the balances after it |
| `buckets` | all buckets after it, where they may have changed |
| `cost` | DebitSeconds: what it took from the credit |
| `bonus` | AddRecievedCallSeconds over the threshold: times, off the counter, credit, SMS, traffic |

`buckets` are the texts of the hash's bucket fields as netstrings, `<bytes>:<text>,` one after the
other, because a destination id may hold any character.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final, NamedTuple

import msgspec
from redis.exceptions import ResponseError

from common.errors import (
    BelowFloor,
    DeadlineExceeded,
    InsufficientCredit,
    InsufficientSeconds,
    InsufficientSms,
    InternalError,
    KeyReused,
    NoBucket,
    NoTariffPlan,
    OutOfRange,
    RatelError,
    StoreUnavailable,
    TooManyBuckets,
    UnknownSubject,
)
from common.money import LIMIT, format_micros
from common.store import Command, Reply
from rater.keys import AccountKeys, encode_part, utf8
from rater.model import MAX_BUCKETS, Account, Bucket, Plan
from rater.scripts import SCRIPTS

JOURNAL_LINES: Final = 10_000
"""About how many lines an account's journal keeps: some 500 KB, years of a busy subscriber."""

_SCRIPT_OF: Final[dict[str, str]] = {
    "DebitBalance": "debit_balance",
    "DebitSMS": "debit_sms",
    "DebitSeconds": "debit_seconds",
    "AddVolumeDiscountSeconds": "add_volume_discount",
    "ResetVolumeDiscountSeconds": "reset_volume_discount",
    "AddRecievedCallSeconds": "add_received_seconds",
    "ResetUserBudget": "reset_user_budget",
}
_SHA_OF: Final = {method: SCRIPTS[name].sha for method, name in _SCRIPT_OF.items()}
_BUCKET_FIELDS: Final = tuple(b"bucket:%d" % index for index in range(MAX_BUCKETS))
_BALANCES: Final = {
    "credit": "credit",
    "sms": "SMS budget",
    "traffic": "traffic budget",
    "volume_discount": "volume discount counter",
    "received": "counter of received seconds",
    "seconds": "seconds of a minute bucket",
}


class Mutation(msgspec.Struct, frozen=True, kw_only=True):
    """One request to change an account."""

    method: str
    """Its plain name, as in `common.methods`, not an alias."""
    tenant: str
    subject: str
    token: str
    token_ttl_ms: int
    request_id: str = ""
    """What the client called its request, for the message of KeyReused."""
    amount_micros: int = 0
    destination: str = ""
    """As dialled."""
    matches: tuple[tuple[str, int], ...] = ()
    """DebitSeconds: id and longest matching prefix length of each destination that matches, ids distinct."""
    plan_id: str = ""
    """AddRecievedCallSeconds, ResetUserBudget: the plan that the account is expected to have."""
    plan: Plan | None = None
    """That plan; None when there is none of that id."""
    deadline_us: int = 0
    """On the store's clock; 0 is none."""
    journal_lines: int = JOURNAL_LINES


class MutationResult(NamedTuple):
    value_micros: int
    replayed: bool


class Refused(NamedTuple):
    error: RatelError
    replayed: bool


class PlanChanged(NamedTuple):
    """The account has another plan than the mutation expected: look it up and try again."""

    plan_id: str


class Opening(Enum):
    CREATED = b"Opened"
    REPLACED = b"Replaced"
    KEPT = b"Kept"
    """It existed, and nothing was changed."""


# --- reading --------------------------------------------------------------------------------------


def read_command(keys: AccountKeys) -> Command:
    return (b"HGETALL", keys.account)


def parse_account(subject: str, reply: Reply) -> Account | None:
    """The account from `read_command`'s reply, None when there is none. Raises what the store refused."""
    if type(reply) is not list:
        raise store_error(reply)
    if not reply:
        return None
    pairs = iter(reply)
    fields: dict[bytes, bytes] = dict(zip(pairs, pairs, strict=True))
    floor = fields.get(b"min_credit")
    buckets: list[Bucket] = []
    for name in _BUCKET_FIELDS:
        text = fields.get(name)
        if text is None:
            break
        buckets.append(_bucket(text))
    return Account(
        subject,
        int(fields[b"credit"]),
        int(fields[b"sms"]),
        int(fields[b"traffic"]),
        int(fields[b"volume_discount"]),
        int(fields[b"received"]),
        int(fields[b"reset_day"]),
        fields[b"plan"].decode(),
        fields[b"type"] == b"postpaid",
        None if floor is None else int(floor),
        tuple(buckets),
    )


def _bucket(text: bytes) -> Bucket:
    seconds, priority, price, destination = text.split(b" ", 3)
    return Bucket(destination.decode(), int(seconds), int(priority), int(price))


def parse_journal_buckets(text: bytes) -> tuple[Bucket, ...]:
    """The buckets of a journal line."""
    buckets: list[Bucket] = []
    while text:
        size, _, text = text.partition(b":")
        buckets.append(_bucket(text[: int(size)]))
        text = text[int(size) + 1 :]
    return tuple(buckets)


# --- changing -------------------------------------------------------------------------------------


def mutation_command(keys: AccountKeys, mutation: Mutation) -> Command:
    """The EVALSHA for a mutation. Raises InvalidParams for text that is not Unicode."""
    method = mutation.method
    token = utf8(mutation.token, "RequestId")
    amount = mutation.amount_micros
    figures = _FIGURES.get(method)
    return (
        b"EVALSHA",
        _SHA_OF[method],
        3,
        keys.account,
        keys.journal,
        keys.token_prefix + token,
        utf8(f"{method} {amount} {encode_part(mutation.destination)}", "DestinationPrefix"),
        mutation.token_ttl_ms,
        mutation.deadline_us,
        mutation.journal_lines,
        token,
        amount,
        *(figures(mutation) if figures else ()),
    )


def _matches(mutation: Mutation) -> Command:
    # By id, because the script takes their order for that of the ids.
    return tuple(word for match in sorted(mutation.matches) for word in match)


def _received_figures(mutation: Mutation) -> Command:
    plan = mutation.plan or Plan(mutation.plan_id)
    bonus = plan.bonus
    seconds_us, _, terms = bucket_text(bonus.bucket).partition(" ") if bonus.bucket else ("0", "", "")
    return (
        mutation.plan_id,
        plan.received_limit_us,
        bonus.credit_micros,
        bonus.sms_micros,
        bonus.traffic_micros,
        seconds_us,
        terms,
        MAX_BUCKETS,
    )


def _reset_figures(mutation: Mutation) -> Command:
    plan = mutation.plan if mutation.plan_id else None
    if plan is None:
        return (mutation.plan_id, 0, 0, 0)
    return (mutation.plan_id, 1, plan.sms_micros, plan.traffic_micros, *map(bucket_text, plan.buckets))


_FIGURES: Final[dict[str, Callable[[Mutation], Command]]] = {
    "DebitSeconds": _matches,
    "AddRecievedCallSeconds": _received_figures,
    "ResetUserBudget": _reset_figures,
}
"""What a method's script is given beyond the arguments that all have."""


_UNDECIDED: Final = (b"Plan", b"Expired", b"UnknownSubject", b"KeyReused")


def is_stored(reply: Reply) -> bool:
    """Whether a mutation's reply is an outcome that stands in the store under its token."""
    return type(reply) is bytes and not reply.startswith(_UNDECIDED)


def is_expired(reply: Reply) -> bool:
    """Whether the mutation was dropped because it is past its deadline by the store's clock."""
    return bool(reply == b"Expired")


def parse_mutation_reply(mutation: Mutation, reply: Reply) -> MutationResult | Refused | PlanChanged:
    """What became of a mutation. A `Refused` error that is not a `Refusal` was not stored for replay."""
    if type(reply) is not bytes:
        return Refused(store_error(reply), False)
    replayed = reply.startswith(b"*")
    word, _, rest = reply[replayed:].partition(b" ")
    if word == b"OK":
        return MutationResult(int(rest), replayed)
    if word == b"Plan":
        return PlanChanged(rest.decode())
    error = _ERRORS.get(word)
    if error is None:
        return Refused(InternalError(detail=f"a script replied {reply[:80]!r}"), False)
    return Refused(error(mutation, rest.decode()), replayed)


def _number(micros: int | str) -> str:
    return format_micros(int(micros))


def _below_floor(mutation: Mutation, figures: str) -> RatelError:
    credit, floor = map(_number, figures.split())
    return BelowFloor(amount=_number(mutation.amount_micros), credit=credit, min_credit=floor)


def _insufficient_credit(mutation: Mutation, figures: str) -> RatelError:
    cost, spendable = map(_number, figures.split())
    return InsufficientCredit(cost=cost, credit=spendable)


_ERRORS: Final[dict[bytes, Callable[[Mutation, str], RatelError]]] = {
    b"BelowFloor": _below_floor,
    b"InsufficientSms": lambda m, sms: InsufficientSms(amount=_number(m.amount_micros), sms=_number(sms)),
    b"InsufficientSeconds": lambda m, seconds: InsufficientSeconds(
        amount=_number(m.amount_micros), seconds=_number(seconds)
    ),
    b"InsufficientCredit": _insufficient_credit,
    b"NoBucket": lambda m, _: NoBucket(subject=m.subject, destination=m.destination),
    b"NoTariffPlan": lambda m, plan: NoTariffPlan(subject=m.subject, plan=plan),
    b"TooManyBuckets": lambda m, _: TooManyBuckets(limit=MAX_BUCKETS),
    b"OutOfRange": lambda m, balance: OutOfRange(balance=_BALANCES[balance]),
    b"UnknownSubject": lambda m, _: UnknownSubject(tenant=m.tenant, subject=m.subject),
    b"KeyReused": lambda m, _: KeyReused(request_id=m.request_id or m.token),
    b"Expired": lambda m, _: DeadlineExceeded(
        detail="the request reached the store too late, and changed nothing"
    ),
}


# --- opening --------------------------------------------------------------------------------------


def open_command(
    keys: AccountKeys,
    account: Account,
    *,
    replace: bool = False,
    token: str = "",
    journal_lines: int = JOURNAL_LINES,
) -> Command:
    """The EVALSHA that creates an account, or with `replace` sets one that exists to these balances.

    Raises ValueError for figures out of range: the loader has refused them with their place before.
    """
    balances = (
        account.credit_micros,
        account.sms_micros,
        account.traffic_micros,
        account.volume_discount_us,
        account.received_us,
    )
    if any(abs(micros) > LIMIT for micros in (*balances, account.min_credit_micros or 0)):
        raise ValueError(f"a balance of {account.subject!r} is out of range")
    if len(account.buckets) > MAX_BUCKETS:
        raise ValueError(f"{account.subject!r} has more than {MAX_BUCKETS} minute buckets")
    buckets = [bucket_text(bucket).encode() for bucket in account.buckets]
    fields: list[bytes | str | int] = ["reset_day", account.reset_day, "plan", account.plan]
    fields += ["type", "postpaid" if account.postpaid else "prepaid"]
    if account.min_credit_micros is not None:
        fields += ["min_credit", account.min_credit_micros]
    for name, text in zip(_BUCKET_FIELDS, buckets, strict=False):
        fields += [name, text]
    return (
        b"EVALSHA",
        SCRIPTS["open_account"].sha,
        2,
        keys.account,
        keys.journal,
        int(replace),
        journal_lines,
        token,
        *balances,
        b"".join(b"%d:%b," % (len(text), text) for text in buckets),
        *fields,
    )


def parse_open_reply(reply: Reply) -> Opening:
    """Raises what the store refused."""
    if type(reply) is not bytes:
        raise store_error(reply)
    return Opening(reply)


def bucket_text(bucket: Bucket) -> str:
    """A bucket as its field in the hash holds it. Raises ValueError for figures out of range."""
    for what in (bucket.seconds_us, bucket.price_nanos):
        if not 0 <= what <= LIMIT:
            raise ValueError(f"a minute bucket of {bucket.destination!r} has a figure out of range: {what}")
    return f"{bucket.seconds_us} {bucket.priority} {bucket.price_nanos} {bucket.destination}"


# --- the store refuses ----------------------------------------------------------------------------

_OUR_FAULTS: Final = ("ERR", "WRONGTYPE", "CROSSSLOT", "NOSCRIPT", "EXECABORT")
"""What a command that is wrong is answered with. Everything else is about the store's state: it is
loading, full, read-only, busy, refuses the password, can't write its file."""


def store_error(reply: Reply) -> RatelError:
    """The error for a reply that is not one of a command's own."""
    if not isinstance(reply, ResponseError):
        return InternalError(detail=f"an unexpected reply of the store: {reply!r:.80}")
    text = str(reply)
    if text.split(" ", 1)[0] in _OUR_FAULTS:
        return InternalError(detail=f"the store refused a command: {text}")
    return StoreUnavailable(detail=text)
