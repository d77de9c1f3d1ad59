"""`ratel account`: one subscriber's account, for operators."""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, Final

import click
import msgspec

from common.commands.command_line import EXIT_UNAVAILABLE, refuse
from common.commands.store_access import open_store
from common.errors import NotDurable, StoreUnavailable
from common.methods import LAST_DAY
from common.money import NotExact, format_micros, parse_decimal, to_micros, to_nanos
from common.settings.options import durability_options, durability_timeout_option, json_option, store_option
from common.storage.durability import Durability, Level
from common.storage.stores import Store
from rater.accounts import admin as account_admin
from rater.accounts.terms import Terms
from rater.accounts.text import line_text, rows
from rater.accounts.value import NotAnAccount
from rater.accounts.view import account_tree, line_tree
from rater.model import MAX_BUCKETS, Account, Bucket

STORE_TIMEOUT_MS: Final = 10_000
MAX_LINES: Final = 10_000
"""Of a history: what journals keep unless told otherwise. `ratel journal export` has all."""


def _exact(scale: Callable[[Any], int]) -> Callable[..., int | None]:
    def convert(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
        if value is None:
            return None
        try:
            return scale(parse_decimal(value))
        except NotExact as error:
            raise click.BadParameter(str(error)) from None

    return convert


def _read_buckets(
    _ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]
) -> tuple[Bucket, ...]:
    if len(values) > MAX_BUCKETS:
        raise click.BadParameter(f"{len(values)} buckets, an account may have {MAX_BUCKETS}")
    return tuple(map(_read_bucket, values))


def _read_bucket(text: str) -> Bucket:
    """`DESTINATION=SECONDS`, `DESTINATION=SECONDS@PRICE`, each also with `,PRIORITY` behind."""
    destination, equals, rest = text.rpartition("=")
    rest, comma, priority = rest.partition(",")
    seconds, at, price = rest.partition("@")
    if not (equals and destination and seconds) or (comma and not priority) or (at and not price):
        raise click.BadParameter(f"expected DESTINATION=SECONDS[@PRICE][,PRIORITY], not {text!r}")
    try:
        bucket = Bucket(
            destination,
            to_micros(parse_decimal(seconds)),
            int(priority or 0),
            to_nanos(parse_decimal(price or "0")),
        )
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: {error}") from None
    if bucket.seconds_us < 0 or bucket.price_nanos < 0:
        raise click.BadParameter(f"{text!r}: seconds and price are not below 0")
    return bucket


def _durable(command: Callable[..., None]) -> Callable[..., None]:
    """What of a change must be certain: the raters' settings, as one `Durability`."""

    @wraps(command)
    def call(durability: str, replicas: int, durability_timeout_ms: int, **others: Any) -> None:
        command(durability=Durability(Level(durability), replicas, durability_timeout_ms), **others)

    return durability_options("What must be certain of the change, as for raters.")(
        durability_timeout_option(call)
    )


_micros: Final = _exact(to_micros)
_type_option: Final = click.option(
    "--type",
    "kind",
    type=click.Choice(["prepaid", "postpaid"]),
    help="Paid for before, or afterwards; a new one is prepaid.",
)
_plan_option: Final = click.option("--plan", metavar="ID", help="The tariff plan; an empty text is none.")
_reset_day_option: Final = click.option(
    "--reset-day", type=click.IntRange(0, LAST_DAY), help="Day of the month, for the operator; 0 is none."
)


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
    with _store(store_url) as store:
        found = account_admin.read(store, tenant, subject)
    if as_json:
        click.echo(_encode(account_tree(tenant, found)))
        return
    for name, text in rows(tenant, found):
        click.echo(f"{name:<18} {text}")


@account.command()
@click.argument("tenant")
@click.argument("subject")
@click.option(
    "--credit",
    callback=_micros,
    default="0",
    metavar="CENTS",
    show_default=True,
    help="What it has to spend at first.",
)
@click.option(
    "--sms", callback=_micros, default="0", metavar="N", show_default=True, help="SMS that it has at first."
)
@click.option(
    "--traffic",
    callback=_micros,
    default="0",
    metavar="N",
    show_default=True,
    help="Units of data traffic that it has at first.",
)
@_type_option
@click.option("--floor", callback=_micros, metavar="CENTS", help="MinCredit: debits don't go below it.")
@_plan_option
@_reset_day_option
@click.option(
    "--bucket",
    "buckets",
    multiple=True,
    callback=_read_buckets,
    metavar="DESTINATION=SECONDS[@PRICE][,PRIORITY]",
    help="A minute bucket: seconds to a destination set, at a price a second (0), of a priority (0).",
)
@store_option
@_durable
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
    with _store(store_url) as store:
        created = account_admin.create(store, tenant, new, durability)
    if not created:
        refuse(f"tenant {tenant!r} has an account for subject {subject!r} already; nothing was changed")
    click.echo(_encode({"CstmId": tenant, "Subject": subject, "Created": True}) if as_json else "created")


@account.command()
@click.argument("tenant")
@click.argument("subject")
@click.argument("amount", callback=_micros)
@click.option("--sms", "kind", flag_value="sms", help="AMOUNT are SMS units.")
@click.option("--cents", "kind", flag_value="cents", default=True, help="AMOUNT are cents; the default.")
@click.option(
    "--request-id",
    metavar="ID",
    help="Give it just once under this id, however often the command is run.  [default: a new one]",
)
@store_option
@_durable
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
    with _store(store_url) as store:
        try:
            given = account_admin.give(store, tenant, subject, kind, amount, request_id, durability)
        except (StoreUnavailable, NotDurable) as error:
            refuse(
                f"{error}; whether it was given is unknown: to have it given once, run this again with"
                f" --request-id {shlex.quote(request_id)}",
                EXIT_UNAVAILABLE,
            )
    unit = "cents" if kind == "cents" else "SMS"
    repeated = ", as before: this request id was carried out already" if given.replayed else ""
    if as_json:
        left = msgspec.Raw(format_micros(given.value_micros).encode())
        about = {"CstmId": tenant, "Subject": subject, "RequestId": request_id}
        click.echo(_encode(about | {"Unit": kind, "Left": left, "Replayed": given.replayed}))
    else:
        click.echo(f"{format_micros(given.value_micros)} {unit}{repeated}")


@account.command("set", short_help="Change type, floor, tariff plan, reset day.")
@click.argument("tenant")
@click.argument("subject")
@_type_option
@click.option("--floor", callback=_micros, metavar="CENTS", help="MinCredit: debits don't go below it.")
@click.option("--no-floor", is_flag=True, help="No MinCredit.")
@_plan_option
@_reset_day_option
@store_option
@_durable
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


@account.command(short_help="Refuse debits and talk time from now on.")
@click.argument("tenant")
@click.argument("subject")
@store_option
@_durable
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


@account.command()
@click.argument("tenant")
@click.argument("subject")
@store_option
@_durable
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
    with _store(store_url) as store:
        lines = account_admin.history(store, tenant, subject, last)
        if not lines:
            account_admin.read(store, tenant, subject)  # says so when there is no account either
    for line in lines:
        click.echo(_encode(line_tree(line)) if as_json else line_text(line))
    if not lines and not as_json:
        click.echo("the journal is empty")


# --- what they share --------------------------------------------------------------------------------


@contextmanager
def _store(url: str) -> Iterator[Store]:
    """A connection; what goes wrong with it, or is refused, ends the command."""
    with open_store(url, STORE_TIMEOUT_MS, ValueError) as store:
        try:
            yield store
        except NotAnAccount as error:
            refuse(f"the store holds something else as this account: {error}")


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
    with _store(store_url) as store:
        # A new id each time: the command says what is to be, and may be given again.
        request_id = f"account-set-{secrets.token_hex(8)}"
        decided = account_admin.decide(store, tenant, subject, terms, request_id, durability)
    changed = bool(decided.value_micros)
    if as_json:
        click.echo(_encode({"CstmId": tenant, "Subject": subject, "Changed": changed}))
    else:
        click.echo(done if changed else same)


def _encode(value: Any) -> str:
    return msgspec.json.encode(value).decode()
