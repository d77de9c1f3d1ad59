"""What every command that calls the API takes: whom to ask, and how. The command gets `connect`, which makes
the client; errors of a call end the command with one line and a code that says whose fault it is."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import click

from common.addresses import Address
from common.client import DEFAULT_TIMEOUT_S, JSONClient
from common.client_parts import parse_servers
from common.commands.command_line import code_of
from common.errors import RatelError, ServiceError
from common.settings.shared import shared
from common.tls import ClientTls, TlsError

CONNECT_TIMEOUT_S: Final = 2.0
"""A person at a terminal wants to hear soon that nothing listens there."""

Connect = Callable[[], JSONClient]
Command = Callable[..., None]


def _read_addresses(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> list[Address]:
    try:
        return [address for value in values for address in parse_servers(value)]
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


TIMEOUT: Final = shared(
    "client",
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, max=3600, min_open=True),
    default=DEFAULT_TIMEOUT_S,
    envvar="RATEL_CALL_TIMEOUT",
    help="Seconds to wait for the answer.",
)
API_KEY_FILE: Final = shared(
    "client",
    "--api-key-file",
    type=click.Path(dir_okay=False),
    envvar="RATEL_API_KEY_FILE",
    help="The file that the API key stands in, where the balancer asks for one.",
)
TLS_CA: Final = shared(
    "client",
    "--tls-ca",
    metavar="FILE",
    envvar="RATEL_CLIENT_TLS_CA",
    help="Trust servers whose certificate was signed by a CA in this PEM file.  "
    "[default: whom the system trusts]",
)

_OPTIONS: Final = (
    shared(
        "client",
        "--address",
        "addresses",
        multiple=True,
        callback=_read_addresses,
        metavar="HOST:PORT",
        default=("127.0.0.1:2001",),
        envvar="RATEL_ADDRESS",
        help="The balancer or rater to ask. Repeat it, or separate them by commas, to name several: the "
        "next one is asked when one can't be reached.",
    ),
    TIMEOUT,
    API_KEY_FILE,
    shared(
        "client",
        "--tls",
        is_flag=True,
        envvar="RATEL_CLIENT_TLS",
        help="Speak TLS. Each of the other --tls options means that, too.",
    ),
    TLS_CA,
    shared(
        "client",
        "--tls-cert",
        metavar="FILE",
        envvar="RATEL_CLIENT_TLS_CERT",
        help="Show this client certificate (PEM).",
    ),
    shared(
        "client",
        "--tls-key",
        metavar="FILE",
        envvar="RATEL_CLIENT_TLS_KEY",
        help="The key of --tls-cert (PEM).",
    ),
    shared(
        "client",
        "--tls-server-name",
        metavar="NAME",
        envvar="RATEL_CLIENT_TLS_SERVER_NAME",
        help="The name in the server's certificate, where it is not the host of --address.",
    ),
)


def client_options(command: Command) -> Command:
    """Adds the options; the command gets the argument `connect` in their place."""

    @functools.wraps(command)
    def with_connect(
        *args: Any,
        addresses: list[Address],
        timeout_s: float,
        api_key_file: str | None,
        tls: bool,
        tls_ca: str | None,
        tls_cert: str | None,
        tls_key: str | None,
        tls_server_name: str | None,
        **others: Any,
    ) -> None:
        wants_tls = tls or tls_ca or tls_cert or tls_key or tls_server_name
        connect = functools.partial(
            JSONClient,
            addresses,
            timeout_s=timeout_s,
            connect_timeout_s=min(timeout_s, CONNECT_TIMEOUT_S),
            api_key_file=api_key_file,
            tls=ClientTls(tls_ca, tls_cert, tls_key, tls_server_name or "") if wants_tls else None,
        )
        command(*args, connect=connect, **others)

    decorated: Command = with_connect
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated


@contextmanager
def call_errors() -> Iterator[None]:
    """An error of a call ends the command: with 1 when the call is wrong or refused, 3 when we failed."""
    try:
        yield
    except RatelError as error:
        request_id = error.data.get("request_id") if isinstance(error, ServiceError) else None
        again = f"; to have it done once, repeat it with RequestId={request_id}" if request_id else ""
        click.echo(f"Error: {error.message}{again}", err=True)
        sys.exit(code_of(error))
    except TlsError as error:
        raise click.UsageError(str(error)) from None
