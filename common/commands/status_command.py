"""`ratel status` and `ratel top`: how a front and its raters do, once or all the time."""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import click

from common.commands.client_options import API_KEY_FILE, TIMEOUT, TLS_CA
from common.commands.status_client import Asked, Refused, Status, Unreachable, fetch, problems, status_url
from common.settings.options import json_option
from common.settings.shared import shared

EXIT_NOT_READY: Final = 1
EXIT_UNREACHABLE: Final = 3

Command = Callable[..., None]


def _read_url(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    try:
        return status_url(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


_OPTIONS: Final = (
    shared(
        "client",
        "--url",
        callback=_read_url,
        metavar="URL",
        default="http://127.0.0.1:8000",
        envvar="RATEL_URL",
        help="The HTTP port of the balancer or gateway to ask.",
    ),
    TIMEOUT,
    API_KEY_FILE,
    TLS_CA,
)


def _options(command: Command) -> Command:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command()
@_options
@json_option("What /status.json says, as it is.")
def status(url: str, api_key_file: str | None, tls_ca: str | None, timeout_s: float, as_json: bool) -> None:
    """Show how a balancer or gateway does, with its raters and their store.

    The exit code is 0 when all is well, 1 when it is not (no rater works, a rater is silent or without a
    store or a tariff, tariffs differ, overload, shutting down), 3 when nobody answers there.

    \b
    Examples:
      ratel status
      ratel status --url http://10.0.0.1:8000 --json | jq .raters
    """
    found = _ask(Asked(url, timeout_s, api_key_file, tls_ca))
    if as_json:
        import json  # noqa: PLC0415 - an import that other ways do not need

        click.echo(json.dumps(found))
    else:
        _console().print(_render(found))
    sys.exit(EXIT_NOT_READY if problems(found) else 0)


@click.command()
@_options
@click.option(
    "--every",
    "every_s",
    type=click.FloatRange(0.2, 3600),
    default=1.0,
    show_default=True,
    envvar="RATEL_TOP_EVERY",
    show_envvar=True,
    metavar="SECONDS",
    help="Pause between two looks.",
)
def top(url: str, api_key_file: str | None, tls_ca: str | None, timeout_s: float, every_s: float) -> None:
    """Watch a balancer or gateway live; q or Ctrl-C ends it. In a pipe it prints one frame.

    \b
    Examples:
      ratel top
      ratel top --url http://10.0.0.1:8000 --every 5
    """
    first = _ask(Asked(url, timeout_s, api_key_file, tls_ca))
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        _console().print(_render(first))
        return
    try:
        _watch(first, lambda: fetch(Asked(url, timeout_s, api_key_file, tls_ca)), every_s)
    except KeyboardInterrupt:
        return


def _watch(first: Status, look: Callable[[], Status], every_s: float) -> None:
    from rich.console import Group  # noqa: PLC0415 - only where there is a terminal
    from rich.live import Live  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    shown = _render(first)
    with _keys() as pressed, Live(shown, console=_console(), screen=True, auto_refresh=False) as live:
        live.refresh()
        while pressed(every_s) != "q":
            try:
                shown = _render(look())
                live.update(shown, refresh=True)
            except (Unreachable, Refused) as error:
                live.update(Group(shown, Text(f"! {error}", "bold red")), refresh=True)


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """A function that waits for a key so many seconds; "" when none came."""
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)

    def pressed(wait_s: float) -> str:
        until_s = time.monotonic() + wait_s
        while (left_s := until_s - time.monotonic()) > 0:
            if select.select([fd], [], [], left_s)[0]:
                key = os.read(fd, 1).decode(errors="replace").lower()
                if key in ("q", "\x03", ""):
                    return "q"
        return ""

    tty.setcbreak(fd)
    try:
        yield pressed
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _ask(whom: Asked) -> Status:
    try:
        return fetch(whom)
    except (Unreachable, Refused) as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(EXIT_UNREACHABLE if isinstance(error, Unreachable) else EXIT_NOT_READY)


def _render(found: Status) -> Any:
    from common.commands.status_view import render  # noqa: PLC0415 - rich is for people

    return render(found)


def _console() -> Any:
    from rich.console import Console  # noqa: PLC0415

    console = Console(highlight=False)
    # In a pipe there is no width to keep to: lines that are cut or broken help nobody.
    return console if console.is_terminal else Console(highlight=False, width=160)
