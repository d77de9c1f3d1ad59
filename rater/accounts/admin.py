"""What operators do with one account, at the store: look, open, credit, decide terms, read its journal.

Whatever changes an account is one script under a token or with an absolute outcome, as for requests: raters
may work on the same account at the same time.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from common.errors import UnknownSubject
from common.storage.durability import DEFAULT_DURABILITY, Durability
from common.storage.stores import Store
from common.wire import CLIENT_KEY
from rater.accounts.mutation import Mutation, MutationResult, Refused
from rater.accounts.mutations import is_stored, mutation_command, parse_mutation_reply
from rater.accounts.opening import Opening, open_command, parse_open_reply
from rater.accounts.terms import Terms, fingerprint
from rater.accounts.value import unpack_account
from rater.journal.lines import Damaged, Line, decode_entry
from rater.journal.scan import checked
from rater.model import Account
from rater.store.confirmed import change, make
from rater.store.keys import account_keys

KEY_TTL_MS: Final = 86_400_000
"""For how long a request id is remembered: as raters do unless told otherwise."""

CREDIT_METHODS: Final = {"cents": "DebitBalance", "sms": "DebitSMS"}


class Found(NamedTuple):
    account: Account
    seq: int
    """Of the last journal line."""
    last_change: str
    """Id of that line, `<unix ms>-<n>`; "" when the journal has none."""


def read(store: Store, tenant: str, subject: str) -> Found:
    """Raises UnknownSubject, NotAnAccount, StoreUnavailable."""
    keys = account_keys(tenant, subject)
    value, last = store.execute([("GET", keys.account), ("XREVRANGE", keys.journal, "+", "-", "COUNT", 1)])
    if checked(value) is None:
        raise UnknownSubject(tenant=tenant, subject=subject)
    seq, account = unpack_account(subject, value)
    lines = checked(last)
    return Found(account, seq, lines[0][0].decode() if lines else "")


def create(store: Store, tenant: str, account: Account, durability: Durability = DEFAULT_DURABILITY) -> bool:
    """Whether it was created; one that exists is kept. Raises ValueError for figures out of range."""
    reply = change(store, open_command(account_keys(tenant, account.subject), account), durability)
    return parse_open_reply(reply) is Opening.CREATED


def give(
    store: Store,
    tenant: str,
    subject: str,
    kind: str,
    amount_micros: int,
    request_id: str,
    durability: Durability = DEFAULT_DURABILITY,
) -> MutationResult:
    """Add to the credit or the SMS budget, once for each request id. Raises what the script refuses."""
    return _change(
        store,
        Mutation(
            method=CREDIT_METHODS[kind],
            tenant=tenant,
            subject=subject,
            token=CLIENT_KEY + request_id,
            token_ttl_ms=KEY_TTL_MS,
            request_id=request_id,
            amount_micros=-amount_micros,
        ),
        durability,
    )


def decide(
    store: Store,
    tenant: str,
    subject: str,
    terms: Terms,
    request_id: str,
    durability: Durability = DEFAULT_DURABILITY,
) -> MutationResult:
    """Set terms, once for each request id: 1 when something has changed, 0 when it was so already. Raises
    UnknownSubject, and ValueError for figures out of range."""
    return _change(
        store,
        Mutation(
            method="SetTerms",
            tenant=tenant,
            subject=subject,
            token=CLIENT_KEY + request_id,
            token_ttl_ms=KEY_TTL_MS,
            request_id=request_id,
            destination=fingerprint(terms),
            terms=terms,
        ),
        durability,
    )


def _change(store: Store, mutation: Mutation, durability: Durability) -> MutationResult:
    keys = account_keys(mutation.tenant, mutation.subject)
    [replies], missing = make(store, [mutation_command(keys, mutation)], durability)
    reply = replies[0] if isinstance(replies, list) else replies
    if missing is not None and is_stored(reply):  # else nothing was done, whatever the copies have
        raise missing
    outcome = parse_mutation_reply(mutation, reply)
    if isinstance(outcome, Refused):
        raise outcome.error
    assert isinstance(outcome, MutationResult)
    return outcome


def history(store: Store, tenant: str, subject: str, last: int) -> list[Line | Damaged]:
    """The last so many lines of the journal, oldest first; none where there is no journal."""
    keys = account_keys(tenant, subject)
    lines = checked(store.execute([("XREVRANGE", keys.journal, "+", "-", "COUNT", last)])[0])
    return [decode_entry(entry_id, pairs) for entry_id, pairs in reversed(lines)]
