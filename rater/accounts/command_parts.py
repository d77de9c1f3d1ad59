"""What the commands of `ratel account` share: how values are read, what must be certain, the store."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import click
import msgspec

from common.commands.command_line import EXIT_UNAVAILABLE, code_of, refuse
from common.commands.store_access import open_store
from common.errors import ServiceError
from common.methods import LAST_DAY, MAX_TEXT_CHARS
from common.money import NotExact, parse_decimal, to_micros, to_nanos
from common.settings.options import durable
from common.storage.stores import Store
from rater.accounts.value import NotAnAccount
from rater.model import MAX_BUCKETS, Bucket

STORE_TIMEOUT_MS: Final = 10_000

# --- options ------------------------------------------------------------------------------------------


def _exact(scale: Callable[[Any], int]) -> Callable[..., int | None]:
    def convert(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
        if value is None:
            return None
        try:
            return scale(parse_decimal(value))
        except NotExact as error:
            raise click.BadParameter(str(error)) from None

    return convert


def read_buckets(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> tuple[Bucket, ...]:
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


def _read_request_id(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    if not 0 < len(value) <= MAX_TEXT_CHARS:
        raise click.BadParameter(f"expected 1 to {MAX_TEXT_CHARS} characters, not {len(value)}")
    return value


def request_id_option(help: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(
        "--request-id",
        callback=_read_request_id,
        metavar="ID",
        help=help + " under this id, however often the command is run.  [default: a new one]",
    )


micros: Final = _exact(to_micros)
certain_option: Final = durable("What must be certain of the change, as for raters.")
type_option: Final = click.option(
    "--type",
    "kind",
    type=click.Choice(["prepaid", "postpaid"]),
    help="Paid for before, or afterwards; a new one is prepaid.",
)
plan_option: Final = click.option("--plan", metavar="ID", help="The tariff plan; an empty text is none.")
reset_day_option: Final = click.option(
    "--reset-day", type=click.IntRange(0, LAST_DAY), help="Day of the month, for the operator; 0 is none."
)


# --- the store, and answers -----------------------------------------------------------------------------


@contextmanager
def account_store(url: str) -> Iterator[Store]:
    """A connection; what goes wrong with it, or is refused, ends the command."""
    with open_store(url, STORE_TIMEOUT_MS, ValueError) as store:
        try:
            yield store
        except NotAnAccount as error:
            refuse(f"the store holds something else as this account: {error}")


@contextmanager
def known_by(request_id: str) -> Iterator[None]:
    """An error after which a change may have been made is told with how to have it made once."""
    try:
        yield
    except ServiceError as error:
        code = code_of(error)
        if code != EXIT_UNAVAILABLE:
            raise
        again = f"run this again with --request-id {shlex.quote(request_id)}"
        refuse(f"{error}; whether it was done is unknown: to have it done once, {again}", code)


AS_BEFORE: Final = ", as before: this request id was carried out already"


def encode(value: Any) -> str:
    return msgspec.json.encode(value).decode()
