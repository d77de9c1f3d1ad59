"""`ratel account set`, `block` and `unblock`: what an operator decides about an account."""

from __future__ import annotations

import secrets
from typing import Any, Final

import click

from common.settings.options import json_option, store_option
from common.settings.shared import all_of
from common.storage.durability import Durability
from rater.accounts import admin as account_admin
from rater.accounts.command_parts import (
    AS_BEFORE,
    account_store,
    certain_option,
    encode,
    known_by,
    micros,
    plan_option,
    request_id_option,
    reset_day_option,
    type_option,
)
from rater.accounts.terms import Terms

_how: Final = all_of(request_id_option("Do it just once"), store_option, certain_option, json_option())
"""What `_decide` is told beside what is to be."""


@click.command("set", short_help="Change type, floor, tariff plan, reset day.")
@click.argument("tenant")
@click.argument("subject")
@type_option
@click.option("--floor", callback=micros, metavar="CENTS", help="MinCredit: debits don't go below it.")
@click.option("--no-floor", is_flag=True, help="No MinCredit.")
@plan_option
@reset_day_option
@_how
def set_(
    tenant: str,
    subject: str,
    kind: str | None,
    floor: int | None,
    no_floor: bool,
    plan: str | None,
    reset_day: int | None,
    **how: Any,
) -> None:
    """Change terms: type, floor, tariff plan, reset day. What is not named stays, balances too.

    \b
    Example:
      ratel account set vdf anna --type postpaid --floor -5000
    """
    if no_floor and floor is not None:
        raise click.UsageError("--floor and --no-floor exclude each other")
    terms: dict[str, Any] = {}
    if kind is not None:
        terms["postpaid"] = kind == "postpaid"
    if no_floor or floor is not None:
        terms["min_credit_micros"] = floor
    if plan is not None:
        terms["plan"] = plan
    if reset_day is not None:
        terms["reset_day"] = reset_day
    if not terms:
        raise click.UsageError("nothing to set: give --type, --floor, --no-floor, --plan or --reset-day")
    _decide(tenant, subject, Terms(**terms), "set", "it was so already", **how)


@click.command(short_help="Refuse debits and talk time from now on.")
@click.argument("tenant")
@click.argument("subject")
@_how
def block(tenant: str, subject: str, **how: Any) -> None:
    """Refuse debits and talk time from now on (`blocked`). What gives back goes on, and loading keeps it.

    \b
    Examples:
      ratel account block vdf anna
      ratel account block vdf anna --request-id ticket-118
    """
    _decide(tenant, subject, Terms(blocked=True), "blocked", "it was blocked already", **how)


@click.command()
@click.argument("tenant")
@click.argument("subject")
@_how
def unblock(tenant: str, subject: str, **how: Any) -> None:
    """Lift a block.

    \b
    Example:
      ratel account unblock vdf anna
    """
    _decide(tenant, subject, Terms(blocked=False), "unblocked", "it was not blocked", **how)


def _decide(
    tenant: str,
    subject: str,
    terms: Terms,
    done: str,
    same: str,
    *,
    request_id: str | None,
    store_url: str,
    durability: Durability,
    as_json: bool,
) -> None:
    # Without an id of its own each run is a request of its own: it says what is to be, and may be repeated.
    request_id = request_id or f"account-set-{secrets.token_hex(8)}"
    with account_store(store_url) as store, known_by(request_id):
        decided = account_admin.decide(store, tenant, subject, terms, request_id, durability)
    changed = bool(decided.value_micros)
    if as_json:
        about = {"CstmId": tenant, "Subject": subject, "RequestId": request_id}
        click.echo(encode(about | {"Changed": changed, "Replayed": decided.replayed}))
    else:
        click.echo((done if changed else same) + (AS_BEFORE if decided.replayed else ""))
