"""Looks at one account: what it holds (Account), and its last changes (History), for operators.

Both read the account and the end of its journal, which are in one slot. The account is read with those of
other requests, before the journal, so a change that falls between the two is a line that the account does
not know of yet: `Changes` is the number of the last one that it has.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from common.errors import InvalidParams, ResultTooLarge, UnknownSubject
from common.methods import BY_NAME, MAX_HISTORY_LINES, Method
from common.money import MICRO
from common.storage.store import Command, Reply
from rater.accounts.admin import Found
from rater.accounts.value import unpack_account
from rater.accounts.view import account_tree, line_tree
from rater.descriptor import Descriptor
from rater.journal.lines import decode_entry

LOOKS: Final = frozenset({BY_NAME["Account"].name, BY_NAME["History"].name})
"""By name: to hash a whole method takes longer than all else that is done to begin a request."""

DEFAULT_LINES: Final = 20
"""Of a history that does not say how many."""

MAX_LINES: Final = MAX_HISTORY_LINES
"""Of a history: what people read at once. With 64 minute buckets in each it takes some 30 ms."""

MAX_LOOKS: Final = 8
"""In one round trip, so that calls do not wait behind them; more are left for the next batches."""

JOURNAL_READ: Final = b"XREVRANGE"

MAX_RESULT_BYTES: Final = 8 * 1024 * 1024
"""As for what calls cost: it must fit into a frame."""


class Look(NamedTuple):
    job: int
    """Its number in the batch."""
    place: int
    """Of its account in the reply."""
    descriptor: Descriptor
    journal: bytes
    """The key."""
    lines: int


def lines_of(method: Method, descriptor: Descriptor) -> int:
    """How many lines of the journal are wanted. Raises InvalidParams."""
    if method.name == "Account":
        return 1  # when the last change was
    if not descriptor.amount_micros:
        return DEFAULT_LINES
    lines, fraction = divmod(descriptor.amount_micros, MICRO)
    if fraction or not 1 <= lines <= MAX_LINES:
        raise InvalidParams(field="Amount", detail=f"expected a whole number of lines, 1 to {MAX_LINES}")
    return lines


def journal_command(look: Look) -> Command:
    return (JOURNAL_READ, look.journal, b"+", b"-", b"COUNT", look.lines)


def describe(look: Look, method: Method, value: Reply, journal: Reply) -> bytes:
    """The result. Raises UnknownSubject, NotAnAccount, ResultTooLarge."""
    tenant, subject = look.descriptor.tenant, look.descriptor.subject
    if value is None:
        raise UnknownSubject(tenant=tenant, subject=subject)
    seq, account = unpack_account(subject, value)
    if method.name == "Account":
        last_change = journal[0][0].decode() if journal else ""
        return msgspec.json.encode(account_tree(tenant, Found(account, seq, last_change)))
    lines = [line_tree(decode_entry(entry_id, pairs)) for entry_id, pairs in reversed(journal)]
    body = msgspec.json.encode({"CstmId": tenant, "Subject": subject, "Changes": seq, "Lines": lines})
    if len(body) > MAX_RESULT_BYTES:
        raise ResultTooLarge(size_bytes=len(body), limit_bytes=MAX_RESULT_BYTES)
    return body
