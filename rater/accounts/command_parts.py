"""What the commands of `ratel account` share: how values are read, what must be certain, the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, Final

import click
import msgspec

from common.commands.command_line import refuse
from common.commands.store_access import open_store
from common.methods import LAST_DAY
from common.money import NotExact, parse_decimal, to_micros, to_nanos
from common.settings.options import durability_options, durability_timeout_option
from common.storage.durability import Durability, Level
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


def durable(command: Callable[..., None]) -> Callable[..., None]:
    """What of a change must be certain: the raters' settings, as one `Durability`."""

    @wraps(command)
    def call(durability: str, replicas: int, durability_timeout_ms: int, **others: Any) -> None:
        command(durability=Durability(Level(durability), replicas, durability_timeout_ms), **others)

    return durability_options("What must be certain of the change, as for raters.")(
        durability_timeout_option(call)
    )


micros: Final = _exact(to_micros)
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


def encode(value: Any) -> str:
    return msgspec.json.encode(value).decode()
