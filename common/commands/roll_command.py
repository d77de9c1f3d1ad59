"""`ratel roll`: restart this host's services one after the other, while clients are served.

It asks systemd to restart a unit, which waits until the new process says that it is ready, and then the
balancers whether they have as many raters as before. The first that does not come back ends it.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from typing import Final
from urllib.error import URLError
from urllib.request import urlopen

import click

RATERS: Final = "ratel-rater@*.service"
GATEWAYS: Final = "ratel-gateway@*.service"
BALANCER: Final = "ratel-balancer.service"
SOCKETS: Final = tuple(f"ratel-balancer-{name}.socket" for name in ("jsonrpc", "http", "router"))
ROUTER_SOCKET: Final = SOCKETS[-1]
"""All that a balancer listens on that has gateways in front."""

LOOK_EVERY_S: Final = 0.05
ANSWER_WITHIN_S: Final = 5.0
"""For one look at a balancer, which is busy."""


@click.command()
@click.argument("what", type=click.Choice(["raters", "balancer", "gateways", "all"]))
@click.option(
    "--ask",
    "urls",
    multiple=True,
    default=("http://127.0.0.1:8000",),
    show_default=True,
    envvar="RATEL_ROLL_ASK",
    show_envvar=True,
    help="Ask this balancer, at its HTTP address, whether its raters are back; repeat for each balancer.",
)
@click.option(
    "--within",
    "within_s",
    type=click.IntRange(1, 3600),
    default=60,
    show_default=True,
    envvar="RATEL_ROLL_WITHIN",
    show_envvar=True,
    help="Seconds after which what was restarted must be back; else it stops there.",
)
@click.option("--force", is_flag=True, help="Restart a balancer whose sockets systemd does not hold, too.")
def roll(what: str, urls: tuple[str, ...], within_s: int, force: bool) -> None:
    """Restart this host's raters, its balancer, its gateways, or all of them in this order, under load.

    Do it on one host after the other, after an upgrade or a change of settings. Where anything does not come
    back it stops, with exit code 1: what was not restarted goes on as before.

    \b
    Examples:
      ratel roll raters
      ratel roll raters --ask http://10.0.0.1:8000 --ask http://10.0.0.2:8000   # on a host of raters
      ratel roll all
    """
    units = _units(what, force)
    began_s = time.monotonic()
    for unit in units:
        _restart(unit, urls, within_s)
    click.echo(f"done after {time.monotonic() - began_s:.1f} s")


def _restart(unit: str, urls: tuple[str, ...], within_s: int) -> None:
    """Raises ClickException unless all balancers have as many raters afterwards as before."""
    before = {}
    for url in urls:
        before[url] = _raters_at(url)
        if before[url] is None:
            raise click.ClickException(f"{unit} not restarted: {url}/readyz does not answer that it is ready")
    began_s = time.monotonic()
    if _systemctl("restart", unit).returncode:
        raise click.ClickException(f"{unit} did not start again; journalctl -u {unit} says why")
    restarted_s = time.monotonic() - began_s
    for url, expected in before.items():
        now = _raters_at(url)
        while now is None or now < (expected or 0):
            if time.monotonic() - began_s > within_s:
                found = "no answer that it is ready" if now is None else f"{now} raters"
                raise click.ClickException(
                    f"{unit} was restarted, but after {within_s} s {url} has {found}, {expected} before"
                )
            time.sleep(LOOK_EVERY_S)
            now = _raters_at(url)
    ready_s = time.monotonic() - began_s
    counts = ", ".join(f"{expected} at {url}" for url, expected in before.items())
    click.echo(f"{unit:24} restarted in {restarted_s:.1f} s, raters after {ready_s:.1f} s: {counts}")


def _raters_at(url: str) -> int | None:
    """How many raters this balancer can give work to; None where it does not say that it is ready."""
    try:
        with urlopen(f"{url.rstrip('/')}/readyz", timeout=ANSWER_WITHIN_S) as response:
            return int(json.load(response)["raters"])
    except (URLError, OSError):
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise click.ClickException(
            f"{url} is no balancer: its /readyz says something else ({error})"
        ) from None


def _active(pattern: str) -> list[str]:
    listed = _systemctl("list-units", "--state=active", "--plain", "--no-legend", "--no-pager", pattern)
    return [line.split()[0] for line in listed.stdout.splitlines() if line.strip()]


def _units(what: str, force: bool) -> list[str]:
    """What to restart, in this order: raters may be asked for what only a newer front knows."""
    patterns = {"raters": RATERS, "balancer": BALANCER, "gateways": GATEWAYS}
    active = {name: _active(pattern) for name, pattern in patterns.items()}
    chosen = list(patterns) if what == "all" else [what]
    units = [unit for name in chosen for unit in active[name]]
    if not units:
        wanted = ", ".join(patterns[name] for name in chosen)
        raise click.ClickException(f"no such unit is active on this host: {wanted}")
    if BALANCER in units and not force:
        _check_sockets((ROUTER_SOCKET,) if active["gateways"] else SOCKETS)
    return units


def _check_sockets(needed: Sequence[str]) -> None:
    idle = [unit for unit in needed if _systemctl("is-active", "--quiet", unit).returncode]
    if idle:
        raise click.ClickException(
            f"not active: {', '.join(idle)}; connections would be refused while the balancer restarts. "
            "Stop the balancer, start these units and the balancer, or say --force"
        )


def _systemctl(*words: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["systemctl", *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False
        )
    except FileNotFoundError:
        raise click.ClickException("systemctl is not there: this is for hosts with systemd") from None
