"""Opening an account, and setting its terms: what operators and the loader decide, not what calls use up.

Commands for the store and what it replies to them, as in `rater.accounts`, which has the lines of the journal
that they leave too.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

import msgspec

from common.money import LIMIT
from common.storage.store import Command, Reply
from rater.account_value import pack_account
from rater.accounts import JOURNAL_LINES
from rater.keys import AccountKeys
from rater.model import Account
from rater.scripts import SCRIPTS
from rater.store_errors import store_error

LAST_DAY: Final = 31


class Opening(Enum):
    CREATED = b"Opened"
    REPLACED = b"Replaced"
    KEPT = b"Kept"
    """It existed, and nothing was changed."""


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
    return (
        b"EVALSHA",
        SCRIPTS["open_account"].sha,
        2,
        keys.account,
        keys.journal,
        int(replace),
        journal_lines,
        token,
        pack_account(account),
    )


def parse_open_reply(reply: Reply) -> Opening:
    """Raises what the store refused."""
    if type(reply) is not bytes:
        raise store_error(reply)
    return Opening(reply)


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator decides about an account. UNSET stays as it is."""

    postpaid: bool | msgspec.UnsetType = msgspec.UNSET
    min_credit_micros: int | msgspec.UnsetType | None = msgspec.UNSET
    """None is no floor."""
    reset_day: int | msgspec.UnsetType = msgspec.UNSET
    plan: str | msgspec.UnsetType = msgspec.UNSET
    """"" is none."""
    blocked: bool | msgspec.UnsetType = msgspec.UNSET


def terms_command(
    keys: AccountKeys, terms: Terms, *, token: str = "", journal_lines: int = JOURNAL_LINES
) -> Command:
    """The EVALSHA that changes an account's terms; its reply goes to `parse_terms_reply`.

    Raises ValueError for figures out of range.
    """
    floor = terms.min_credit_micros
    if isinstance(floor, int) and abs(floor) > LIMIT:
        raise ValueError("the floor is out of range")
    if isinstance(terms.reset_day, int) and not 0 <= terms.reset_day <= LAST_DAY:
        raise ValueError(f"the reset day is not 0 to {LAST_DAY}")
    return (
        b"EVALSHA",
        SCRIPTS["set_terms"].sha,
        2,
        keys.account,
        keys.journal,
        journal_lines,
        token,
        _flag(terms.postpaid),
        "" if floor is msgspec.UNSET else "none" if floor is None else floor,
        "" if terms.reset_day is msgspec.UNSET else terms.reset_day,
        "" if terms.plan is msgspec.UNSET else f"={terms.plan}",
        _flag(terms.blocked),
    )


def _flag(value: bool | msgspec.UnsetType) -> str:
    return "" if value is msgspec.UNSET else str(int(value))


def parse_terms_reply(reply: Reply) -> bool | None:
    """Whether something has changed; None when there is no such account. Raises what the store refused."""
    if type(reply) is not bytes:
        raise store_error(reply)
    return {b"Changed": True, b"Same": False, b"UnknownSubject": None}[reply]
