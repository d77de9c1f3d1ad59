"""`ratel up`: a whole cluster on this machine, each part a child process that is kept running."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import logging
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import click

from common.addresses import EXPOSED, NOWHERE, Address, AddressType, is_exposed
from common.child import die_with_parent
from common.disk_sync import DiskSync
from common.durability import DEFAULT_REPLICAS
from common.durability import LEVELS as DURABILITY_LEVELS
from common.embedded_store import EmbeddedStore, EmbeddedStoreError
from common.logs import LEVELS, setup
from common.paths import data_dir
from common.store import describe_store_url
from common.supervisor import Child, Stopped, StopSignals, Supervisor

log = logging.getLogger(__name__)

STOP_WITHIN_S: Final = 10.0
"""How long a part may take to finish what it has: longer than any request's deadline."""

LOOK_EVERY_S: Final = 0.05
STORE_READY_WITHIN_S: Final = 60.0
"""Replaying a large append-only file takes a while."""

EMBEDDED_LEVELS: Final = ("everysec", "always")

Look = Callable[[], None]
"""Waits a moment and notices deaths of children meanwhile."""


def ratel(*args: str) -> list[str]:
    """The command line of a subcommand in this same installation."""
    return [sys.executable, "-m", "common.cli", *args]


@click.command()
@click.option("--raters", type=click.IntRange(1, 256), default=2, show_default=True, help="Rater processes.")
@click.option(
    "--data",
    "data",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="RATEL_DATA",
    show_envvar=True,
    help="Folder of the embedded store.  [default: the user's data folder]",
)
@click.option(
    "--durability",
    type=click.Choice(DURABILITY_LEVELS),
    default="everysec",
    show_default=True,
    envvar="RATEL_DURABILITY",
    show_envvar=True,
    help="Of the embedded store a power failure loses the last one to two seconds, or nothing (always); "
    "killed processes lose nothing either way. The replicated levels need --store, see `ratel rater --help`.",
)
@click.option(
    "--replicas",
    type=click.IntRange(1, 100),
    default=DEFAULT_REPLICAS,
    show_default=True,
    envvar="RATEL_REPLICAS",
    show_envvar=True,
    help="How many replicas must confirm a change at a replicated level.",
)
@click.option(
    "--gateways",
    type=click.IntRange(0, 64),
    default=0,
    show_default=True,
    help="Run the gateways as so many processes of their own, which share the ports; 0 is in the balancer.",
)
@click.option("--store", "store_url", envvar="RATEL_STORE", show_envvar=True, help="Use this store instead.")
@click.option(
    "--jsonrpc", type=AddressType(), default="127.0.0.1:2001", show_default=True, help="JSON-RPC over TCP."
)
@click.option(
    "--http", "http_", type=AddressType(), default="127.0.0.1:8000", show_default=True, help="HTTP."
)
@click.option(
    "--router", type=AddressType(), default="127.0.0.1:2000", show_default=True, help="Where raters join."
)
@click.option(
    "--insecure-router",
    is_flag=True,
    help="Let --router be another address than loopback: whoever can reach it may then do anything.",
)
@click.option(
    "--load",
    "paths",
    type=click.Path(exists=True),
    multiple=True,
    help="Load this tariff file or folder at the start; may be repeated.",
)
@click.option("--tenant", help="Tenant of loaded objects that name none.")
@click.option("--example", "examples", multiple=True, help="Arguments of a `ratel call` to show once ready.")
@click.option("--log-level", type=click.Choice(LEVELS), default="warning", show_default=True)
def up(
    raters: int,
    data: Path | None,
    durability: str,
    replicas: int,
    gateways: int,
    store_url: str | None,
    jsonrpc: Address,
    http_: Address,
    router: Address,
    insecure_router: bool,
    paths: tuple[str, ...],
    tenant: str | None,
    examples: tuple[str, ...],
    log_level: str,
) -> None:
    """Run a whole cluster on this machine: a store, a balancer and raters.

    Prints a line that begins with "ready" once it answers. Ctrl-C or SIGTERM stops everything.

    \b
    Examples:
      ratel up --load deploy/sample-tariff
      ratel up --raters 4 --data /var/lib/ratel --http 0.0.0.0:8000
      ratel up --raters 8 --gateways 2
      ratel up --store redis://127.0.0.1:6379/0
    """
    setup(log_level)
    if store_url is None and durability not in EMBEDDED_LEVELS:
        raise click.UsageError(
            f"--durability {durability} needs --store: the embedded store has no replicas, "
            f"it offers {' and '.join(EMBEDDED_LEVELS)}"
        )
    stop, supervisor = StopSignals(), Supervisor()
    disk_sync: DiskSync | None = None

    def look() -> None:
        """Wait a moment, then notice deaths. Raises Stopped."""
        stop.wait(LOOK_EVERY_S)
        supervisor.watch()

    # Every wait is a `look`, and whatever was started by then is stopped in `finally`.
    try:
        with contextlib.suppress(OSError):  # a name that stands for nothing: `_claim` says so
            if not insecure_router and is_exposed(router):
                raise click.ClickException(EXPOSED.format(router))
        jsonrpc, http_, router = _claim(jsonrpc, http_, router)
        began_s = time.monotonic()
        if store_url is None:
            store = _start_store(supervisor, look, (data or data_dir()).absolute(), durability)
            if durability == "everysec":
                disk_sync = DiskSync(store.data_dir)
                disk_sync.start()
            # For the children not its URL, which may be another one when the store is started again.
            shown_url, store_url = store.url, f"embedded:{store.data_dir}"
        else:
            shown_url = describe_store_url(store_url)
        promise = ["--durability", durability, "--replicas", str(replicas)]
        supervisor.add(*_raters(raters, store_url, promise, router, log_level))
        open_to_all = ["--insecure-router"] if insecure_router else []
        for group in _front(gateways, jsonrpc, http_, [str(router), *open_to_all], log_level):
            supervisor.add(*group)
        click.echo(f"  store     {shown_url}")
        click.echo(f"  json-rpc  {jsonrpc}")
        click.echo(f"  http      http://{http_}")
        shared = f", {gateways} gateway{'s' if gateways > 1 else ''}" if gateways else ""
        click.echo(f"  router    {router}, {raters} rater{'s' if raters > 1 else ''}{shared}")
        if paths:
            _load(look, store_url, paths, tenant)
        _wait_until_ready(look, http_, store_url)
        click.echo(f"ready after {time.monotonic() - began_s:.1f} s; Ctrl-C stops it")
        for example in examples:
            click.echo(f"$ ratel call {example}")
            _run(look, ratel("call", "--address", str(jsonrpc), *shlex.split(example)))
        while True:
            look()
    except Stopped:
        click.echo("stopping")
    finally:
        supervisor.stop()
        if disk_sync is not None:
            disk_sync.stop()
        stop.ignore()
    click.echo("stopped")


def _claim(*addresses: Address) -> list[Address]:
    """The addresses, with free ports in place of 0: a restarted part must come back where it was.

    A port that was free is not kept: until the part listens there, the system may give it to an
    outgoing connection of anyone, and the part is then started again until it is free.
    Raises ClickException when something else listens there, which no restart would mend.
    """
    claimed = []
    with contextlib.ExitStack() as probes:  # all held until the end: no port is chosen twice
        for address in addresses:
            family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
            try:
                probe = probes.enter_context(
                    socket.create_server((address.host, address.port), family=family)
                )
            except OSError as error:
                raise click.ClickException(
                    f"can't listen on {address}: {os.strerror(error.errno or 0)}"
                ) from None
            claimed.append(address._replace(port=int(probe.getsockname()[1])))
    return claimed


def _start_store(supervisor: Supervisor, look: Look, data: Path, durability: str) -> EmbeddedStore:
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(data / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)  # held until the end
    except OSError as error:
        raise click.ClickException(f"can't use the data folder {data}: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise click.ClickException(f"another `ratel up` uses the data folder {data}") from None
    store = EmbeddedStore(data, appendfsync="always" if durability == "always" else "no")
    try:
        supervisor.add(Child("store", store.command, stop_within_s=STOP_WITHIN_S))
    except EmbeddedStoreError as error:
        raise click.ClickException(str(error)) from None
    deadline_s = time.monotonic() + STORE_READY_WITHIN_S
    while not store.is_ready():
        if time.monotonic() > deadline_s:
            raise click.ClickException(f"the store in {data} is not ready after {STORE_READY_WITHIN_S:.0f} s")
        look()
    return store


def _raters(raters: int, store_url: str, promise: list[str], router: Address, log_level: str) -> list[Child]:
    command = ratel(
        "rater", "--balancer", str(router), "--store", store_url, *promise, "--log-level", log_level
    )
    return [Child(f"rater-{n}", _fixed(command), stop_within_s=STOP_WITHIN_S) for n in range(1, raters + 1)]


def _front(
    gateways: int, jsonrpc: Address, http_: Address, router: list[str], log_level: str
) -> list[list[Child]]:
    """Groups to be added last, so stopped first, the gateways before the balancer: each answers what is in
    flight while those behind it are still there. `router` is its address, and what else to say of it."""
    listen = ["--jsonrpc", str(jsonrpc), "--http", str(http_)]
    common = ["--log-level", log_level]
    if not gateways:
        balancer = ratel("balancer", *listen, "--router", *router, *common)
        return [[Child("balancer", _fixed(balancer), stop_within_s=STOP_WITHIN_S)]]
    nowhere = ["--jsonrpc", NOWHERE, "--http", NOWHERE]
    balancer = ratel("balancer", *nowhere, "--router", *router, *common)
    gateway = ratel("gateway", *listen, "--reuse-port", "--balancer", router[0], *common)
    return [
        [Child("balancer", _fixed(balancer), stop_within_s=STOP_WITHIN_S)],
        [Child(f"gateway-{n}", _fixed(gateway), stop_within_s=STOP_WITHIN_S) for n in range(1, gateways + 1)],
    ]


def _fixed(command: list[str]) -> Callable[[], list[str]]:
    return lambda: command


def _load(look: Look, store_url: str, paths: tuple[str, ...], tenant: str | None) -> None:
    options = ["--tenant", tenant] if tenant else []
    if _run(look, ratel("load", "--store", store_url, *options, *paths)):
        raise click.ClickException("the tariff was not loaded")


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


def _wait_until_ready(look: Look, http_: Address, store_url: str) -> None:
    hint_at_s = time.monotonic() + 5.0
    while not _is_ready(http_):
        if time.monotonic() > hint_at_s:
            hint_at_s = float("inf")
            click.echo(f"waiting for a tariff: ratel load --store {shlex.quote(store_url)} PATH")
        look()


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
