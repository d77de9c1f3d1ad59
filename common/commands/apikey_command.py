"""`ratel apikey`: make, list and revoke the API keys in the file that fronts let clients in by.

A key is printed once, when it is made; the file has its hash alone, so nobody can show it again. What is
written takes effect by itself: every front reads the file again within a second.

Exit codes: 0 done; 1 it can't be done, and nothing was changed; 2 the command line is wrong.
"""

from __future__ import annotations

import contextlib
import functools
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
import msgspec
from rich.console import Console

from common.commands.apikey_view import key_state, limits_text, show_table, shown_key, tenants_text
from common.security.api_keys import (
    ALL,
    GROUPS,
    MAX_KEYS,
    BadKeyFile,
    KeyFile,
    KeyRecord,
    Limits,
    check_limits,
    check_record,
    check_tenants,
    hash_key,
    new_key,
)
from common.security.key_file import change_keys, read_keys
from common.settings.options import api_keys_option, json_option
from common.settings.shared import Command
from common.times import SECOND_US, format_rfc3339, parse_rfc3339

DEFAULT_PATH: Final = "/etc/ratel/api-keys.json"

_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SPAN: Final = re.compile(r"([1-9][0-9]{0,8})([smhd])")

_api_keys = api_keys_option(f"The file of API keys.  [default: {DEFAULT_PATH}]")


def _file_option(command: Command) -> Command:
    """The file, as the argument `path`."""

    @functools.wraps(command)
    def with_path(*args: Any, api_keys: Path | None, **others: Any) -> None:
        command(*args, path=api_keys or Path(DEFAULT_PATH), **others)

    return _api_keys(with_path)


_json_option = json_option("Print JSON.")


@click.group()
def apikey() -> None:
    """Make, list and revoke API keys, and limit what tenants ask.

    \b
    Examples:
      ratel apikey create --name switch-1 --tenant vdf --allow read --allow debit > switch-1.key
      ratel apikey list
      ratel apikey revoke 4f1c9a02b7
      ratel apikey limit vdf --rate 500 --burst 1000
    """


def _read_expiry(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """`90d`, or a time; as RFC 3339."""
    if value is None:
        return None
    span = _SPAN.fullmatch(value)
    now_us = time.time_ns() // 1000
    try:
        until_us = now_us + int(span[1]) * _UNITS_S[span[2]] * SECOND_US if span else parse_rfc3339(value)
        text = format_rfc3339(until_us // SECOND_US * SECOND_US)
    except (ValueError, OverflowError) as error:
        detail = f"{error}; expected a span such as 90d or 12h, or a time such as 2030-01-31T00:00:00Z"
        raise click.BadParameter(detail) from None
    if until_us <= now_us:
        raise click.BadParameter(f"{value} is past")
    return text


def _limit_options(command: Any) -> Any:
    for option in (
        click.option("--in-flight", type=int, help="Most requests without an answer yet."),
        click.option("--burst", type=int, help="Requests at once after a pause.  [default: those of 1 s]"),
        click.option("--rate", type=float, help="Most requests a second."),
    ):
        command = option(command)
    return command


def _limits(rate: float | None, burst: int | None, in_flight: int | None) -> Limits | None:
    limits = Limits(rate=rate, burst=burst, in_flight=in_flight)
    try:
        check_limits(limits)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    return limits if limits != Limits() else None


@apikey.command()
@_file_option
@click.option("--name", required=True, help="Whose it is, for people: it stands in lists.")
@click.option("--tenant", "tenants", multiple=True, help="It is for this tenant; repeat for each.")
@click.option("--all-tenants", is_flag=True, help="It is for every tenant, also for those to come.")
@click.option(
    "--allow",
    multiple=True,
    required=True,
    help=f"What it may do: {', '.join(GROUPS)}, or a method such as GetCost; repeat for each.",
)
@click.option(
    "--expires",
    callback=_read_expiry,
    help="When it ends by itself: 90d, 12h, or a time such as 2030-01-31T00:00:00Z.  [default: never]",
)
@_limit_options
@_json_option
def create(
    path: Path,
    name: str,
    tenants: tuple[str, ...],
    all_tenants: bool,
    allow: tuple[str, ...],
    expires: str | None,
    rate: float | None,
    burst: int | None,
    in_flight: int | None,
    as_json: bool,
) -> None:
    """Make a key and print it. This is the only time that it can be seen.

    \b
    The key goes to stdout, all else to stderr:
      ratel apikey create --name switch-1 --tenant vdf --allow read --allow debit > switch-1.key
    What may be allowed:
      read      GetCost, GetMaxSessionTime, Explain
      debit     DebitBalance, DebitSMS, DebitSeconds, AddVolumeDiscountSeconds, AddRecievedCallSeconds
      operator  ResetVolumeDiscountSeconds, ResetUserBudget, Account, History,
                SetTerms
    """
    if bool(tenants) == all_tenants:
        raise click.UsageError("give --tenant for each tenant that it is for, or --all-tenants")
    if ALL in tenants:
        raise click.UsageError(f"--tenant {ALL}: every tenant is --all-tenants")
    limits = _limits(rate, burst, in_flight)
    created = format_rfc3339(time.time_ns() // 1_000_000_000 * SECOND_US)
    with _changing(path) as held:
        file = held[0]
        if len(file.keys) >= MAX_KEYS:
            raise BadKeyFile(
                f"{path} has {MAX_KEYS} keys, which is the limit; `ratel apikey purge` takes out "
                "those that are good for nothing any more"
            )
        key_id, key = new_key({record.id for record in file.keys})
        record = KeyRecord(
            id=key_id,
            name=name,
            sha256=hash_key(key),
            tenants=tuple(dict.fromkeys(tenants)) or (ALL,),
            allow=tuple(dict.fromkeys(allow)),
            created=created,
            expires=expires,
            limits=limits,
        )
        try:
            check_record(record)
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        held[0] = msgspec.structs.replace(file, keys=(*file.keys, record))
    if as_json:
        click.echo(msgspec.json.encode({"key": key} | shown_key(record, time.time())))
        return
    click.echo(key)
    until = f" until {expires}" if expires else ""
    about = f"{', '.join(record.methods)} of {tenants_text(record)}{until}"
    click.echo(f"key {key_id} ({name}) is for {about}; it can't be shown again", err=True)


@apikey.command("list")
@_file_option
@_json_option
def list_(path: Path, as_json: bool) -> None:
    """Show the keys: what each is for, and whether it is valid. Never the keys themselves. JSON in a pipe.

    \b
    Example:
      ratel apikey list
    """
    try:
        file = read_keys(path)[0]
    except BadKeyFile as error:
        raise click.ClickException(str(error)) from None
    now_s = time.time()
    shown = [shown_key(record, now_s) for record in file.keys]
    if as_json or not sys.stdout.isatty():
        limits = msgspec.to_builtins(file.limits)
        click.echo(msgspec.json.encode({"keys": shown, "limits": limits}))
    else:
        show_table(Console(highlight=False), file, shown)


@apikey.command(short_help="Refuse these keys from now on.")
@_file_option
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@_json_option
def revoke(path: Path, ids: tuple[str, ...], as_json: bool) -> None:
    """Refuse these keys from now on, on open connections too, within a second.

    To exchange a key without a pause: create another one, give it to the client, then revoke the old one.

    \b
    Example:
      ratel apikey revoke 4f1c9a02b7
    """
    now = format_rfc3339(time.time_ns() // 1_000_000_000 * SECOND_US)
    with _changing(path) as held:
        file = held[0]
        known = {record.id: record for record in file.keys}
        for key_id in ids:
            if key_id not in known:
                shown = (
                    "a whole key: give its id, the ten digits after ratel_" if "_" in key_id else repr(key_id)
                )
                raise BadKeyFile(f"{path} has no key with the id {shown}; nothing was revoked")
        records = tuple(
            msgspec.structs.replace(record, revoked=record.revoked or now) if record.id in ids else record
            for record in file.keys
        )
        held[0] = msgspec.structs.replace(file, keys=records)
    if as_json:
        click.echo(msgspec.json.encode({"revoked": list(dict.fromkeys(ids))}))
        return
    for key_id in dict.fromkeys(ids):
        click.echo(f"key {key_id} ({known[key_id].name}) is revoked")


@apikey.command()
@_file_option
@_json_option
def purge(path: Path, as_json: bool) -> None:
    """Take revoked and expired keys out of the file.

    \b
    Example:
      ratel apikey purge
    """
    now_s = time.time()
    with _changing(path) as held:
        file = held[0]
        gone = [record.id for record in file.keys if key_state(record, now_s) != "valid"]
        kept = tuple(record for record in file.keys if record.id not in gone)
        held[0] = msgspec.structs.replace(file, keys=kept)
    if as_json:
        click.echo(msgspec.json.encode({"purged": gone}))
    else:
        click.echo(f"{len(gone)} key{'s' * (len(gone) != 1)} taken out, {len(kept)} left")


@apikey.command(short_help="Limit what a tenant asks by all its keys together.")
@_file_option
@click.argument("tenant")
@_limit_options
@_json_option
def limit(
    path: Path,
    tenant: str,
    rate: float | None,
    burst: int | None,
    in_flight: int | None,
    as_json: bool,
) -> None:
    """Limit what a tenant asks, by all keys together that are for it alone; without options, no more.

    TENANT `*` is for each tenant that has no limits of its own. Every front counts for itself: with three
    behind one address, a tenant gets up to three times as much.

    \b
    Examples:
      ratel apikey limit vdf --rate 500 --burst 1000
      ratel apikey limit '*' --in-flight 100
    """
    limits = _limits(rate, burst, in_flight)
    try:
        check_tenants((tenant,))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    with _changing(path) as held:
        rest = {name: old for name, old in held[0].limits.items() if name != tenant}
        held[0] = msgspec.structs.replace(
            held[0], limits=rest | ({tenant: limits} if limits is not None else {})
        )
    if as_json:
        click.echo(msgspec.json.encode({"tenant": tenant, "limits": limits}))
    else:
        click.echo(f"tenant {tenant}: {limits_text(limits) or 'no limits'}")


# --- shared ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def _changing(path: Path) -> Iterator[list[KeyFile]]:
    """`change_keys`, with its errors as the command's."""
    try:
        with change_keys(path) as held:
            yield held
    except BadKeyFile as error:
        raise click.ClickException(str(error)) from None
