"""`ratel account set`, `block` and `unblock`: what an operator decides about an account."""

from __future__ import annotations

import secrets
from typing import Any

import click

from common.settings.options import json_option, store_option
from common.storage.durability import Durability
from rater.accounts import admin as account_admin
from rater.accounts.command_parts import (
    account_store,
    durable,
    encode,
    micros,
    plan_option,
    reset_day_option,
    type_option,
)
from rater.accounts.terms import Terms


@click.command("set", short_help="Change type, floor, tariff plan, reset day.")
@click.argument("tenant")
@click.argument("subject")
@type_option
@click.option("--floor", callback=micros, metavar="CENTS", help="MinCredit: debits don't go below it.")
@click.option("--no-floor", is_flag=True, help="No MinCredit.")
@plan_option
@reset_day_option
@store_option
@durable
@json_option()
def set_(
    tenant: str,
    subject: str,
    kind: str | None,
    floor: int | None,
    no_floor: bool,
    plan: str | None,
    reset_day: int | None,
    store_url: str,
    durability: Durability,
    as_json: bool,
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
    _decide(store_url, durability, tenant, subject, Terms(**terms), as_json, "set", "it was so already")


@click.command(short_help="Refuse debits and talk time from now on.")
@click.argument("tenant")
@click.argument("subject")
@store_option
@durable
@json_option()
def block(tenant: str, subject: str, store_url: str, durability: Durability, as_json: bool) -> None:
    """Refuse debits and talk time from now on (`blocked`). What gives back goes on, and loading keeps it.

    \b
    Example:
      ratel account block vdf anna
    """
    _decide(
        store_url,
        durability,
        tenant,
        subject,
        Terms(blocked=True),
        as_json,
        "blocked",
        "it was blocked already",
    )


@click.command()
@click.argument("tenant")
@click.argument("subject")
@store_option
@durable
@json_option()
def unblock(tenant: str, subject: str, store_url: str, durability: Durability, as_json: bool) -> None:
    """Lift a block.

    \b
    Example:
      ratel account unblock vdf anna
    """
    _decide(
        store_url,
        durability,
        tenant,
        subject,
        Terms(blocked=False),
        as_json,
        "unblocked",
        "it was not blocked",
    )


def _decide(
    store_url: str,
    durability: Durability,
    tenant: str,
    subject: str,
    terms: Terms,
    as_json: bool,
    done: str,
    same: str,
) -> None:
    with account_store(store_url) as store:
        # A new id each time: the command says what is to be, and may be given again.
        request_id = f"account-set-{secrets.token_hex(8)}"
        decided = account_admin.decide(store, tenant, subject, terms, request_id, durability)
    changed = bool(decided.value_micros)
    if as_json:
        click.echo(encode({"CstmId": tenant, "Subject": subject, "Changed": changed}))
    else:
        click.echo(done if changed else same)
