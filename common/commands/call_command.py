"""`ratel call`: one call of the API from the shell, readable on a terminal and JSON in a pipe.

Exit codes: 0 the call was carried out; 1 it was refused or is wrong; 2 the command line is wrong;
3 the service could not be reached, or could not do it.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Final

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.commands.client_options import Connect, call_errors, client_options
from common.commands.explain_view import show_explanation
from common.methods import BY_HTTP_NAME, BY_RPC_NAME, METHODS, TERMS, Method
from common.money import NotExact, parse_decimal
from common.settings.options import json_option
from common.times import parse_rfc3339

FIELDS: Final = (
    "CstmId",
    "Subject",
    "DestinationPrefix",
    "TimeStart",
    "TimeEnd",
    "Amount",
    "TOR",
    "RequestId",
    *TERMS,
)
SHORT_NAMES: Final = {"subj": "Subject", "dest": "DestinationPrefix", "start": "TimeStart", "end": "TimeEnd"}
"""As in the query of an HTTP request; the others are the same but for their case."""

_FIELD_BY_LOWER: Final = {name.lower(): name for name in FIELDS} | SHORT_NAMES
_METHOD_BY_LOWER: Final = BY_HTTP_NAME | {name.lower(): method for name, method in BY_RPC_NAME.items()}
_JSON_NUMBER: Final = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)

encode_result = msgspec.json.Encoder(decimal_format="number").encode


def _read_method(_ctx: click.Context, _param: click.Parameter, value: str) -> Method:
    """A method by any of its names, whatever the case: `GetCost`, `getcost`, `Responder.GetCost`."""
    method = _METHOD_BY_LOWER.get(value.lower())
    if method is None:
        names = [method.name for method in METHODS]
        raise click.BadParameter(f"there is no method {value!r}{_hint(value, names)}")
    return method


def _read_fields(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    return read_fields(values)


def read_fields(values: Iterable[str]) -> dict[str, Any]:
    """The call descriptor from its fields, each `NAME=VALUE`. Raises BadParameter."""
    descriptor: dict[str, str | int | Decimal] = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals:
            raise click.BadParameter(f"expected NAME=VALUE such as Subject=rif, not {value!r}")
        field = _FIELD_BY_LOWER.get(name.lower())
        if field is None:
            raise click.BadParameter(f"there is no field {name!r}{_hint(name, (*FIELDS, *SHORT_NAMES))}")
        if field in descriptor:
            raise click.BadParameter(f"{field} is given twice")
        try:
            descriptor[field] = _parse_value(field, text)
        except ValueError as error:
            raise click.BadParameter(f"{field}: {error}") from None
    return descriptor


def _hint(wrong: str, known: Iterable[str]) -> str:
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(wrong.lower(), by_lower, n=1)
    question = f"; did you mean {by_lower[close[0]]!r}?" if close else ";"
    return f"{question} Known are {', '.join(by_lower.values())}"


def _parse_value(field: str, text: str) -> str | int | Decimal:
    """What the descriptor holds for it. Raises ValueError."""
    if field in ("TimeStart", "TimeEnd"):
        parse_rfc3339(text)
    if TERMS.get(field) is bool:
        if text not in ("true", "false"):
            raise ValueError(f"expected true or false, not {text!r}")
        return text == "true"
    if field == "TOR" or TERMS.get(field) is int:
        if not re.fullmatch(r"-?(0|[1-9]\d{0,18})", text, re.ASCII):
            raise ValueError(f"expected a whole number, not {text!r}")
        return int(text)
    if field != "Amount" and TERMS.get(field) is not float:
        return text
    if not _JSON_NUMBER.fullmatch(text):
        raise NotExact(f"expected a number such as 100 or -0.5, not {text!r}")
    return parse_decimal(text)


@click.command(no_args_is_help=True)
@click.argument("method", callback=_read_method)
@click.argument("descriptor", nargs=-1, callback=_read_fields, metavar="[NAME=VALUE]...")
@client_options
@json_option("Print the result as JSON; the default in a pipe.")
def call(
    method: Method,
    descriptor: dict[str, Any],
    connect: Connect,
    as_json: bool,
) -> None:
    """Make one call of the API and show the answer.

    \b
    Examples:
      ratel call GetCost CstmId=vdf Subject=rif DestinationPrefix=0256 \\
          TimeStart=2012-02-02T17:30:00Z TimeEnd=2012-02-02T18:30:00Z
      ratel call DebitBalance cstmid=vdf subj=rif amount=12.5

    Names of methods and fields may be written in any case, and as the HTTP interface calls them:
    subj, dest, start, end. A mutation is carried out once, however often the connection has to be
    made anew; give a RequestId to be safe across several runs of this command too.
    """
    with call_errors(), connect() as client:
        result = client.call(method.name, descriptor)
    if as_json or not sys.stdout.isatty():
        click.echo(encode_result(result))
    else:
        show(Console(highlight=False), method, result)


def show(console: Console, method: Method, result: Any) -> None:
    """The result for people."""
    if method.name == "Explain":
        show_explanation(console, result)
        return
    if method.name in ("Account", "History"):
        console.print_json(encode_result(result).decode())
        return
    if isinstance(result, dict):
        _show_call_cost(console, result)
        return
    if method.takes_terms:
        console.print(f"{method.name}: {'done' if result else 'it was so already'}")
        return
    if method.result == "0":
        console.print(f"{method.name}: done")
        return
    label, comma, unit = method.result.rpartition(", ")
    if not comma and unit != "seconds":
        label, unit = unit, ""
    number = f"[bold]{result}[/bold]"
    console.print(f"{method.name}:", *filter(None, (label, number, unit)))


def _show_call_cost(console: Console, cost: Mapping[str, Any]) -> None:
    spans: list[dict[str, Any]] = cost.get("Timespans") or []
    subject, prefix = escape(str(cost.get("Subject"))), escape(str(cost.get("DestinationPrefix")))
    table = Table(title=f"{escape(str(cost.get('CstmId')))}: {subject} to {prefix}", title_justify="left")
    for heading in ("From", "To"):
        table.add_column(heading, no_wrap=True)
    for heading in ("Seconds", "Cost"):
        table.add_column(heading, justify="right")
    table.add_column("Priced by")
    for span in spans:
        start, end = str(span["TimeStart"]), str(span["TimeEnd"])
        seconds = Decimal(parse_rfc3339(end) - parse_rfc3339(start)).scaleb(-6).normalize()
        table.add_row(start, end, f"{seconds:f}", str(span["Cost"]), escape(_priced_by(span)))
    console.print(table)
    console.print(
        f"Cost [bold]{cost.get('Cost')}[/bold] cents, connect fee [bold]{cost.get('ConnectFee')}[/bold] cents"
    )


def _priced_by(span: Mapping[str, Any]) -> str:
    interval, minutes = span.get("Interval"), span.get("MinuteInfo")
    if minutes:
        return f"bucket {minutes['DestinationId']}: {minutes['Quantity']} s at {minutes['Price']} a second"
    if interval:
        return f"{interval['Price']} per {interval['BillingUnit']} s"
    return "no price is in effect"
