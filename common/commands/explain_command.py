"""`ratel explain`: why a call costs what it costs, and why a subscriber may talk so long, or not at all.

Exit codes: 0 the verdict is `ok`; 1 it is another one, or the question is wrong; 2 the command line is wrong;
3 the service could not be reached, or could not do it.
"""

from __future__ import annotations

import sys
from typing import Any

import click
from rich.console import Console

from common.commands.call_command import encode_result, read_fields
from common.commands.client_options import Connect, call_errors, client_options
from common.commands.command_line import EXIT_REFUSED
from common.commands.explain_view import show_explanation
from common.settings.options import json_option
from common.times import format_rfc3339, parse_rfc3339


def _a_minute_after(start: str) -> str:
    try:
        return format_rfc3339(parse_rfc3339(start) + 60_000_000)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--start") from None


@click.command(no_args_is_help=True)
@click.argument("tenant")
@click.argument("subject")
@click.argument("number")
@click.option("--start", metavar="TIME", help="When the call starts, RFC 3339.  [default: now]")
@click.option("--end", metavar="TIME", help="When it ends; needs --start.  [default: a minute after that]")
@click.option(
    "--seconds", metavar="N", help="How long they would like to talk.  [default: as long as the call lasts]"
)
@client_options
@json_option("The answer as JSON; the default in a pipe.")
def explain(
    tenant: str,
    subject: str,
    number: str,
    start: str | None,
    end: str | None,
    seconds: str | None,
    connect: Connect,
    as_json: bool,
) -> None:
    """Explain the price of a call, and how long SUBJECT of TENANT may talk to NUMBER.

    \b
    Examples:
      ratel explain vdf rif 0256308200 --start 2012-02-02T17:30:00Z --end 2012-02-02T18:30:00Z
      ratel explain vdf anna 0723045326 --seconds 3600
      ratel explain vdf anna 0723045326 --json

    It says which prefixes were tried, which rate and period hold, which interval wins at each time and why
    the others lose, what each minute bucket gives, the discount, and what each length of talk would cost.
    """
    if start is None and end is not None:
        raise click.UsageError("--end needs --start")
    if start is not None and end is None:
        end = _a_minute_after(start)
    fields = {"CstmId": tenant, "Subject": subject, "DestinationPrefix": number}
    optional = {"TimeStart": start, "TimeEnd": end, "Amount": seconds}
    question: dict[str, Any] = read_fields(
        [f"{name}={text}" for name, text in (fields | optional).items() if text is not None]
    )
    with call_errors(), connect() as client:
        result = client.call("Explain", question)
    if as_json or not sys.stdout.isatty():
        click.echo(encode_result(result))
    else:
        show_explanation(Console(highlight=False), result)
    if result["Verdict"] != "ok":
        sys.exit(EXIT_REFUSED)
