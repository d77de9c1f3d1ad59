"""`ratel up`: a whole cluster on this machine, each part a child process that is kept running."""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

import click

from common.addresses import EXPOSED, Address
from common.commands.up_parts import (
    LOOK_EVERY_S,
    GivenStore,
    Look,
    Wanted,
    front_children,
    metrics_doors,
    open_doors,
    promise,
    ratel,
    rater_children,
    start_store,
    tell_children,
)
from common.logs import setup
from common.paths import data_dir
from common.process.child import die_with_parent
from common.process.doors import Doors
from common.process.roll import roll
from common.process.supervisor import Child, Stopped, StopSignals, Supervisor
from common.security.api_keys import BadKeyFile
from common.security.exposure import API_KEYS_REMEDY, is_exposed, refusal
from common.security.key_file import read_keys
from common.settings import config
from common.settings.config_show import setting_of
from common.settings.options import (
    allow_insecure_option,
    api_keys_option,
    durability_options,
    http_option,
    insecure_router_option,
    jsonrpc_option,
    log_level_option,
    metrics_option,
    router_option,
    store_parts,
    store_with_login,
)
from common.storage.disk_sync import DiskSync
from common.storage.store_login import mask_url
from common.storage.store_url import describe_store_url

log = logging.getLogger(__name__)


EMBEDDED_LEVELS: Final = ("everysec", "always")

PARTS: Final = ("balancer", "gateway", "rater", "load")
"""Commands that run as its children: with a wrong setting they would be started again and again."""


@click.command()
@click.option(
    "--raters",
    type=click.IntRange(1, 256),
    default=2,
    show_default=True,
    envvar="RATEL_UP_RATERS",
    show_envvar=True,
    help="Rater processes.",
)
@store_parts(url_help="Use this store instead of an embedded one.", data_help="Folder of the embedded store.")
@durability_options(
    "Of the embedded store a power failure loses the last one to two seconds, or nothing (always); "
    "killed processes lose nothing either way. The replicated levels need --store, see `ratel rater --help`."
)
@click.option(
    "--gateways",
    type=click.IntRange(0, 64),
    default=0,
    show_default=True,
    envvar="RATEL_UP_GATEWAYS",
    show_envvar=True,
    help="Run the gateways as so many processes of their own, which share the ports; 0 is in the balancer.",
)
@jsonrpc_option("JSON-RPC over TCP; port 0 takes a free one.")
@http_option("HTTP.")
@router_option("Where raters join.")
@insecure_router_option
@api_keys_option()
@allow_insecure_option
@click.option(
    "--load",
    "paths",
    type=click.Path(exists=True),
    multiple=True,
    envvar="RATEL_UP_LOAD",
    show_envvar=True,
    help="Load this tariff file or folder at the start; may be repeated.",
)
@click.option(
    "--tenant",
    envvar="RATEL_UP_TENANT",
    show_envvar=True,
    help="Tenant of loaded objects that name none.",
)
@click.option("--example", "examples", multiple=True, help="Arguments of a `ratel call` to show once ready.")
@metrics_option(
    "up",
    "RATEL_UP_METRICS",
    help="Tell Prometheus about each process here, by HTTP at /metrics: the balancer at this port, gateways "
    "at the next ones, then raters; port 0 is any free one for each. Without it the parts' own settings "
    "hold, and where there are several of a part, the next ones have the next ports.",
)
@log_level_option(default="warning")
def up(
    raters: int,
    gateways: int,
    durability: str,
    replicas: int,
    jsonrpc: Address,
    http_: Address,
    router: Address,
    insecure_router: bool,
    api_keys: Path | None,
    allow_insecure: bool,
    metrics: Address | None,
    log_level: str,
    paths: tuple[str, ...],
    tenant: str | None,
    examples: tuple[str, ...],
    **store: Any,
) -> None:
    """Run a whole cluster on this machine: a store, a balancer and raters.

    Prints a line that begins with "ready" once it answers. Ctrl-C or SIGTERM stops everything. Its parts take
    their own settings from the same file and environment. SIGHUP replaces raters, balancer and gateways one
    after the other by new processes, of the version that is installed by then, while clients are served.

    \b
    Examples:
      ratel up --load deploy/sample-tariff
      ratel up --raters 4 --data /var/lib/ratel --http 0.0.0.0:8000 --api-keys /etc/ratel/api-keys.json
      ratel up --raters 8 --gateways 2
      ratel up --store redis://127.0.0.1:6379/0
    """
    setup(log_level)
    guard = _guard(api_keys, allow_insecure, {"--jsonrpc": jsonrpc, "--http": http_})
    wanted = Wanted(
        raters,
        gateways,
        durability,
        replicas,
        jsonrpc,
        http_,
        router,
        insecure_router,
        log_level,
        guard,
        metrics,
    )
    given = GivenStore(**store)
    _refuse_what_can_t_be(wanted, given)
    config.check_parts(click.get_current_context(), PARTS)
    _refuse_one_port_for_several(raters)
    _run_until_stopped(wanted, given, _Errands(paths, tenant, examples))


class _Errands(NamedTuple):
    """What is done once, at the start."""

    paths: tuple[str, ...]
    tenant: str | None
    examples: tuple[str, ...]


class _Opened(NamedTuple):
    """A cluster with its ports: they are open before anything is started."""

    wanted: Wanted
    """With the ports that were free where 0 was asked for."""
    front: list[list[Child]]
    metrics: dict[str, Doors]


# --- before the start -------------------------------------------------------------------------------------


def _refuse_what_can_t_be(wanted: Wanted, given: GivenStore) -> None:
    with contextlib.suppress(
        OSError
    ):  # a name that stands for nothing: it is said when the address is opened
        if not wanted.insecure_router and is_exposed(wanted.router):
            raise click.ClickException(EXPOSED.format(wanted.router))
    if given.store_url is not None:
        store_with_login(given.store_url, given.store_password_file, given.sentinel_password_file)
    elif wanted.durability not in EMBEDDED_LEVELS:
        raise click.UsageError(
            f"--durability {wanted.durability} needs --store: the embedded store has no replicas, "
            f"it offers {' and '.join(EMBEDDED_LEVELS)}"
        )
    elif given.store_password_file or given.sentinel_password_file:
        raise click.UsageError("--store-password-file needs --store: the embedded store has no password")


def _refuse_one_port_for_several(raters: int) -> None:
    """A rater's own port is for those who ask this very one: nobody would find ports that are numbered."""
    own = setting_of(click.get_current_context(), "rater", "jsonrpc")
    if own is not None and own.value.port and raters > 1:
        raise click.ClickException(
            f"{own.origin}: {raters} raters can't all listen on {own.value}: give --raters 1, or port 0"
        )


def _guard(api_keys: Path | None, allow_insecure: bool, listeners: dict[str, Address]) -> tuple[str, ...]:
    """What the front is to be told of it. Raises ClickException for what it would not start with."""
    if api_keys is not None:
        try:
            read_keys(api_keys)
        except BadKeyFile as error:
            raise click.ClickException(f"--api-keys: {error}") from None
        return ("--api-keys", str(api_keys.absolute()))
    if allow_insecure:
        return ("--allow-insecure",)
    for option, address in listeners.items():
        with contextlib.suppress(OSError):  # as above
            if is_exposed(address):
                raise click.ClickException(refusal(option, address, API_KEYS_REMEDY))
    return ()


# --- from the start to the end ----------------------------------------------------------------------------


def _run_until_stopped(wanted: Wanted, given: GivenStore, errands: _Errands) -> None:
    """Every wait is a `look`. Whatever was started by then is stopped at the end, the disk's sync last."""
    stop, supervisor = StopSignals(), Supervisor()

    def look() -> None:
        """Wait a moment, then notice deaths. Raises Stopped."""
        stop.wait(LOOK_EVERY_S)
        supervisor.watch()

    with contextlib.ExitStack() as ends:
        ends.callback(stop.ignore)
        try:
            opened = _open(wanted)
            began_s = time.monotonic()
            store_url = _start(supervisor, look, ends, opened, given)
            if errands.paths:
                _load(look, errands, wanted)
            _wait_until_ready(look, opened, store_url)
            click.echo(f"ready after {time.monotonic() - began_s:.1f} s; Ctrl-C stops it")
            _show_examples(look, errands.examples, opened.wanted.jsonrpc)
            _keep_running(stop, supervisor, look, opened.wanted.http)
        except Stopped:
            click.echo("stopping")
        finally:
            supervisor.stop()
    click.echo("stopped")


def _open(wanted: Wanted) -> _Opened:
    entrance, backdoor = open_doors(wanted)
    there = entrance[0].addresses | backdoor.addresses
    wanted = wanted._replace(jsonrpc=there["jsonrpc"], http=there["http"], router=there["router"])
    metrics = metrics_doors(wanted)
    return _Opened(wanted, front_children(wanted, entrance, backdoor, metrics), metrics)


def _start(
    supervisor: Supervisor, look: Look, ends: contextlib.ExitStack, opened: _Opened, given: GivenStore
) -> str:
    """Start everything and say where it is; the URL of the store."""
    wanted = opened.wanted
    if given.store_url is None:
        store = start_store(supervisor, look, (given.data or data_dir()).absolute(), wanted.durability)
        if wanted.durability == "everysec":
            disk_sync = DiskSync(store.data_dir)
            disk_sync.start()
            ends.callback(disk_sync.stop)
        # For the children not its URL, which may be another one when the store is started again.
        shown_url, store_url = store.url, f"embedded:{store.data_dir}"
    else:
        shown_url, store_url = describe_store_url(given.store_url), given.store_url
    tell_children(store_url, given)
    supervisor.add(*rater_children(wanted, opened.metrics))
    for group in opened.front:
        supervisor.add(*group)
    _say_where(opened, shown_url)
    return store_url


def _say_where(opened: _Opened, shown_url: str) -> None:
    wanted = opened.wanted
    raters, gateways = wanted.raters, wanted.gateways
    shared = f", {gateways} gateway{'s' if gateways > 1 else ''}" if gateways else ""
    click.echo(f"  store     {shown_url}")
    click.echo(f"  json-rpc  {wanted.jsonrpc}")
    click.echo(f"  http      http://{wanted.http}")
    click.echo(f"  router    {wanted.router}, {raters} rater{'s' if raters > 1 else ''}{shared}")
    for name, doors in opened.metrics.items():
        click.echo(f"  metrics   http://{doors.addresses['metrics']}/metrics {name}")


def _load(look: Look, errands: _Errands, wanted: Wanted) -> None:
    """With the raters that were started just now, of which the store knows nothing yet."""
    options = ["--raters", str(wanted.raters), *promise(wanted)]
    options += ["--tenant", errands.tenant] if errands.tenant else []
    if _run(look, ratel("load", *options, *errands.paths)):
        raise click.ClickException("the tariff was not loaded")


def _show_examples(look: Look, examples: tuple[str, ...], jsonrpc: Address) -> None:
    for example in examples:
        click.echo(f"$ ratel call {example}")
        _run(look, ratel("call", "--address", str(jsonrpc), *shlex.split(example)))


def _run(look: Look, command: list[str]) -> int:
    """Run a command to its end while the children are being watched; its exit code."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent, process_group=0)
    try:
        while process.poll() is None:
            look()
    finally:
        process.kill()
        process.wait()
    return process.returncode


def _wait_until_ready(look: Look, opened: _Opened, store_url: str) -> None:
    while not all(
        child.ready for group in opened.front for child in group
    ):  # till then nobody is at the door
        look()
    hint_at_s = time.monotonic() + 5.0
    while not _is_ready(opened.wanted.http):
        if time.monotonic() > hint_at_s:
            hint_at_s = float("inf")
            click.echo(f"waiting for a tariff: ratel load --store {shlex.quote(mask_url(store_url))} PATH")
        look()


def _keep_running(stop: StopSignals, supervisor: Supervisor, look: Look, http_: Address) -> None:
    """Until Stopped is raised. A SIGHUP is a request to replace what runs, or the end of the terminal."""
    in_terminal = _is_in_terminal()
    while True:
        look()
        if not stop.take_hangup():
            continue
        if in_terminal and not _is_in_terminal():
            raise Stopped
        roll(supervisor, look, lambda: _is_ready(http_))


def _is_in_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _is_ready(http_: Address) -> bool:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(http_.host, http_.host)
    connection = http.client.HTTPConnection(host, http_.port, timeout=1.0)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
