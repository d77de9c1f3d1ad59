"""Accounts: the commands that read and change them, and what the store's replies mean.

A mutation is done under one token; a script (`rater.store.scripts`) does a list of them, of one method, and
replies with a list. What it says of each is a word and figures: `OK <result>`, a refusal with the figures
that its message needs, `Plan <id>`, `Expired`, `UnknownSubject` or `KeyReused`; an asterisk in front marks a
replay. `OK` and refusals are stored under the token, together with a fingerprint of the request (method,
amount, destination), for its time to live after its last use: a replay begins it anew. The others decided
nothing and are not stored. A damaged key is an error in the place of the requests that name it. A script
that fails as a whole may have done some of its list, each with its token: sent again by itself, each is
told what became of it.

Every mutation that was carried out, and every opening, is a line in the account's journal, a stream
whose entry ids are the times. A line's fields:

| field | holds |
| --- | --- |
| `did` | operation, amount and token, with a space between them |
| `after` | the sequence number and the balances after it: bytes 8 to 55 of the account |
| `buckets` | all buckets after it, where they may have changed, as in the account |
| `cost` | DebitSeconds: what it took from the credit |
| `terms` | SetTerms: type, floor, reset day, whether blocked, and plan after it, as text |
| `bonus` | AddRecievedCallSeconds over the threshold: times, off the counter, credit, SMS, traffic |

The operation is the method's name, `Open` for a new account, or `Load` for one that was replaced; the
amount is as requested, in micros, 0 where the method has none. Sequence numbers are 1, 2, 3 … without
gaps. SetTerms that changes nothing is no line.
An account is opened by `rater.accounts.opening`. The layout of an account is in
`rater.accounts.value`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from struct import Struct
from typing import Final

from common.errors import (
    BelowFloor,
    Blocked,
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
    TooManyBuckets,
    UnknownSubject,
)
from common.money import format_micros
from common.storage.store import Command, Reply
from rater.accounts import terms
from rater.accounts.mutation import Mutation, MutationResult, PlanChanged, Refused
from rater.accounts.value import (
    NotAnAccount,
    pack_buckets,
    pack_terms,
    unpack_account,
    unpack_buckets,
)
from rater.model import MAX_BUCKETS, Account, Bucket, Plan
from rater.store.errors import store_error
from rater.store.keys import AccountKeys, encode_part, utf8
from rater.store.scripts import SCRIPTS

MAX_SCRIPT_REQUESTS: Final = 64
"""Mutations in one run of a script, during which the store serves nobody else: below a millisecond. More
would save nothing: what all of them share is by then a hundredth of the cost of each."""

_KEPT_FIGURES: Final = 4_096
"""Sets of matching destinations that are kept packed: a tariff has few, and many numbers have the same."""

_MATCH: Final = Struct("<II")

_SCRIPT_OF: Final[dict[str, str]] = {
    "DebitBalance": "debit_balance",
    "DebitSMS": "debit_sms",
    "DebitSeconds": "debit_seconds",
    "AddVolumeDiscountSeconds": "add_volume_discount",
    "ResetVolumeDiscountSeconds": "reset_volume_discount",
    "AddRecievedCallSeconds": "add_received_seconds",
    "ResetUserBudget": "reset_user_budget",
    "SetTerms": "set_terms",
}
_SHA_OF: Final = {method: SCRIPTS[name].sha for method, name in _SCRIPT_OF.items()}
_BALANCES: Final = {
    "credit": "credit",
    "sms": "SMS budget",
    "traffic": "traffic budget",
    "volume_discount": "volume discount counter",
    "received": "counter of received seconds",
    "seconds": "seconds of a minute bucket",
}


# --- reading --------------------------------------------------------------------------------------


def read_command(accounts: Iterable[bytes]) -> Command:
    """The MGET for some accounts' keys; each value of its reply goes to `parse_account`."""
    return (b"MGET", *accounts)


def parse_account(subject: str, value: Reply) -> Account | None:
    """An account from its value, None when there is none. Raises InternalError for what is no account.

    MGET also has None for a key of another type: only what changes an account finds that one damaged.
    """
    if value is None:
        return None
    if type(value) is not bytes:
        raise store_error(value)
    try:
        return unpack_account(subject, value)[1]
    except NotAnAccount as error:
        raise InternalError(
            detail=f"the store holds something else as the account of {subject!r}: {error}"
        ) from None


def parse_journal_buckets(text: bytes) -> tuple[Bucket, ...]:
    """The buckets of a journal line."""
    return unpack_buckets(text)


# --- changing -------------------------------------------------------------------------------------


def batch_command(method: str, batch: Sequence[tuple[AccountKeys, Mutation]]) -> Command:
    """The EVALSHA for mutations of one method, 1 to MAX_SCRIPT_REQUESTS, in this order.

    Its reply is a list with one for each, for `parse_mutation_reply`. Those of one account cost less
    when they stand together. In a cluster all must be of one account. All have the first one's
    `journal_lines`. Raises InvalidParams when a text in one of them is not Unicode.
    """
    if not 0 < len(batch) <= MAX_SCRIPT_REQUESTS:
        raise ValueError(f"{len(batch)} requests for one script")
    figures = _FIGURES.get(method)
    keys: list[bytes] = []
    words: list[bytes | str | int] = []
    try:
        for (account, journal, token_prefix), mutation in batch:
            destination, ttl_ms = mutation.destination, mutation.token_ttl_ms
            if ttl_ms <= 0:  # the script would find out behind its first write
                raise ValueError(f"a token can't live for {ttl_ms} ms")
            keys += (account, journal, token_prefix + mutation.token.encode())
            words += (
                mutation.amount_micros,
                destination if destination.isdigit() else encode_part(destination).encode(),
                ttl_ms,
                mutation.deadline_us,
            )
            if figures:
                words += figures(mutation)
    except UnicodeEncodeError:
        for _, mutation in batch:
            utf8(mutation.token, "RequestId")
            utf8(mutation.destination, "DestinationPrefix")
        raise
    return (b"EVALSHA", _SHA_OF[method], len(keys), *keys, batch[0][1].journal_lines, *words)


def mutation_command(keys: AccountKeys, mutation: Mutation) -> Command:
    """`batch_command` for one mutation."""
    return batch_command(mutation.method, ((keys, mutation),))


def deadline_places(command: Command, requests: int) -> range:
    """Where in a `batch_command` the deadlines of its requests stand."""
    first = 4 + 3 * requests
    return range(first + 3, len(command), (len(command) - first) // requests)


@lru_cache(_KEPT_FIGURES)
def _pack_matches(matches: tuple[tuple[str, int], ...]) -> bytes:
    # By id, because the script takes their order for that of the ids.
    return b"".join(
        [
            _MATCH.pack(len(name), length) + name
            for name, length in sorted((m.encode(), n) for m, n in matches)
        ]
    )


def _matches(mutation: Mutation) -> Command:
    return (_pack_matches(mutation.matches),)


def _received_figures(mutation: Mutation) -> Command:
    plan = mutation.plan or Plan(mutation.plan_id)
    bonus = plan.bonus
    bucket = bonus.bucket
    return (
        mutation.plan_id,
        plan.received_limit_us,
        bonus.credit_micros,
        bonus.sms_micros,
        bonus.traffic_micros,
        bucket.seconds_us if bucket else 0,
        pack_terms(bucket) if bucket else b"",
        MAX_BUCKETS,
    )


def _reset_figures(mutation: Mutation) -> Command:
    plan = mutation.plan if mutation.plan_id else None
    if plan is None:
        return (mutation.plan_id, 0, 0, 0, 0, b"")
    return (
        mutation.plan_id,
        1,
        plan.sms_micros,
        plan.traffic_micros,
        len(plan.buckets),
        pack_buckets(plan.buckets),
    )


def _terms(mutation: Mutation) -> Command:
    assert mutation.terms is not None
    return terms.words(mutation.terms)


_FIGURES: Final[dict[str, Callable[[Mutation], Command]]] = {
    "DebitSeconds": _matches,
    "AddRecievedCallSeconds": _received_figures,
    "ResetUserBudget": _reset_figures,
    "SetTerms": _terms,
}
"""What a method's script is given for a request beyond the words that all have."""


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
    if reply[:3] == b"OK ":
        return MutationResult(int(reply[3:]), False)
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
    b"Blocked": lambda m, _: Blocked(subject=m.subject),
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
