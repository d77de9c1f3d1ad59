"""`ratel account`: one subscriber's account, for operators."""

from __future__ import annotations

import secrets
from typing import Final

import click
import msgspec

from common.commands.command_line import refuse
from common.money import format_micros
from common.settings.options import json_option, store_option
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
    read_buckets,
    request_id_option,
    reset_day_option,
    type_option,
)
from rater.accounts.terms_commands import block, set_, unblock
from rater.accounts.text import line_text, rows
from rater.accounts.view import account_tree, line_tree
from rater.model import Account, Bucket

MAX_LINES: Final = 10_000
"""Of a history: what journals keep unless told otherwise. `ratel journal export` has all."""


@click.group()
def account() -> None:
    """Look at one account, open it, give it credit, decide its terms, block it, read its journal.

    TENANT is what calls name as CstmId, SUBJECT what they name as Subject.

    \b
    Exit codes of all subcommands:
      0  done
      1  refused: no such account, or it exists, or it is damaged, or a rule says no
      2  the command line is wrong
      3  the store is not available, or too few copies confirmed the change (--durability): run it again
    """


@account.command()
@click.argument("tenant")
@click.argument("subject")
@store_option
@json_option()
def show(tenant: str, subject: str, store_url: str, as_json: bool) -> None:
    """Show budgets, minute buckets and terms.

    \b
    Example:
      ratel account show vdf anna
    """
    with account_store(store_url) as store:
        found = account_admin.read(store, tenant, subject)
    if as_json:
        click.echo(encode(account_tree(tenant, found)))
        return
    for name, text in rows(tenant, found):
        click.echo(f"{name:<18} {text}")


@account.command()
@click.argument("tenant")
@click.argument("subject")
@click.option(
    "--credit",
    callback=micros,
    default="0",
    metavar="CENTS",
    show_default=True,
    help="What it has to spend at first.",
)
@click.option(
    "--sms", callback=micros, default="0", metavar="N", show_default=True, help="SMS that it has at first."
)
@click.option(
    "--traffic",
    callback=micros,
    default="0",
    metavar="N",
    show_default=True,
    help="Units of data traffic that it has at first.",
)
@type_option
@click.option("--floor", callback=micros, metavar="CENTS", help="MinCredit: debits don't go below it.")
@plan_option
@reset_day_option
@click.option(
    "--bucket",
    "buckets",
    multiple=True,
    callback=read_buckets,
    metavar="DESTINATION=SECONDS[@PRICE][,PRIORITY]",
    help="A minute bucket: seconds to a destination set, at a price a second (0), of a priority (0).",
)
@store_option
@certain_option
@json_option()
def create(
    tenant: str,
    subject: str,
    credit: int,
    sms: int,
    traffic: int,
    kind: str | None,
    floor: int | None,
    plan: str | None,
    reset_day: int | None,
    buckets: tuple[Bucket, ...],
    store_url: str,
    durability: Durability,
    as_json: bool,
) -> None:
    """Open an account. One that exists is left as it is, and the command fails.

    \b
    Examples:
      ratel account create vdf bob --credit 1000 --floor 0
      ratel account create vdf bob --plan gold --bucket mobile=600 --bucket landline=3600@0.01,5
    """
    new = Account(
        subject=subject,
        credit_micros=credit,
        sms_micros=sms,
        traffic_micros=traffic,
        reset_day=reset_day or 0,
        plan=plan or "",
        postpaid=kind == "postpaid",
        min_credit_micros=floor,
        buckets=buckets,
    )
    with account_store(store_url) as store:
        created = account_admin.create(store, tenant, new, durability)
    if not created:
        refuse(f"tenant {tenant!r} has an account for subject {subject!r} already; nothing was changed")
    click.echo(encode({"CstmId": tenant, "Subject": subject, "Created": True}) if as_json else "created")


@account.command()
@click.argument("tenant")
@click.argument("subject")
@click.argument("amount", callback=micros)
@click.option("--sms", "kind", flag_value="sms", help="AMOUNT are SMS units.")
@click.option("--cents", "kind", flag_value="cents", default=True, help="AMOUNT are cents; the default.")
@request_id_option("Give it just once")
@store_option
@certain_option
@json_option()
def credit(
    tenant: str,
    subject: str,
    amount: int,
    kind: str,
    request_id: str | None,
    store_url: str,
    durability: Durability,
    as_json: bool,
) -> None:
    """Add AMOUNT to the credit. A negative one, behind `--`, takes away, by the rules of a debit.

    \b
    Examples:
      ratel account credit vdf anna 500 --request-id topup-2024-118
      ratel account credit vdf anna -- -500
    """
    request_id = request_id or f"account-credit-{secrets.token_hex(8)}"
    with account_store(store_url) as store, known_by(request_id):
        given = account_admin.give(store, tenant, subject, kind, amount, request_id, durability)
    unit = "cents" if kind == "cents" else "SMS"
    repeated = AS_BEFORE if given.replayed else ""
    if as_json:
        left = msgspec.Raw(format_micros(given.value_micros).encode())
        about = {"CstmId": tenant, "Subject": subject, "RequestId": request_id}
        click.echo(encode(about | {"Unit": kind, "Left": left, "Replayed": given.replayed}))
    else:
        click.echo(f"{format_micros(given.value_micros)} {unit}{repeated}")


@account.command(short_help="Show the last lines of the journal.")
@click.argument("tenant")
@click.argument("subject")
@click.option(
    "--last",
    type=click.IntRange(1, MAX_LINES),
    default=20,
    show_default=True,
    metavar="N",
    help="So many lines.",
)
@store_option
@json_option("JSON Lines, one for each line of the journal.")
def history(tenant: str, subject: str, last: int, store_url: str, as_json: bool) -> None:
    """Show the last lines of the journal, oldest first: each change, its request, the balances after it.

    \b
    Example:
      ratel account history vdf anna --last 5
    """
    with account_store(store_url) as store:
        lines = account_admin.history(store, tenant, subject, last)
        if not lines:
            account_admin.read(store, tenant, subject)  # says so when there is no account either
    for line in lines:
        click.echo(encode(line_tree(line)) if as_json else line_text(line))
    if not lines and not as_json:
        click.echo("the journal is empty")


for _command in (set_, block, unblock):
    account.add_command(_command)
