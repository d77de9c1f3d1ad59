"""Opening an account: the command for the store and its reply, as `rater.accounts.mutations` has them."""

from __future__ import annotations

from enum import Enum

from common.storage.store import Command, Reply
from rater.accounts.mutation import JOURNAL_LINES
from rater.accounts.value import pack_account
from rater.model import Account
from rater.store.errors import store_error
from rater.store.keys import AccountKeys
from rater.store.scripts import SCRIPTS


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
    waits: bool = False,
    token: str = "",
    journal_lines: int = JOURNAL_LINES,
) -> Command:
    """The EVALSHA that creates an account, or with `replace` sets one that exists to these balances.

    Who `waits` for copies of it, be it new or kept, says so: then something is written in any case.
    Raises ValueError for figures out of range: the loader has refused them with their place before.
    """
    return (
        b"EVALSHA",
        SCRIPTS["open_account"].sha,
        2,
        keys.account,
        keys.journal,
        1 if replace else 2 if waits else 0,
        journal_lines,
        token,
        pack_account(account),
    )


def parse_open_reply(reply: Reply) -> Opening:
    """Raises what the store refused."""
    if type(reply) is not bytes:
        raise store_error(reply)
    return Opening(reply)
