"""`ratel up`: a whole cluster on this machine, each part a child process that is kept running."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import logging
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import click

from common import config
from common.addresses import EXPOSED, NOWHERE, Address
from common.api_keys import BadKeyFile
from common.child import die_with_parent
from common.disk_sync import DiskSync
from common.doors import CannotOpen, Doors, open_several
from common.embedded_store import EmbeddedStore, EmbeddedStoreError
from common.exposure import API_KEYS_REMEDY, is_exposed, refusal
from common.key_file import read_keys
from common.logs import chosen_format, setup
from common.options import (
    allow_insecure_option,
    api_keys_option,
    durability_options,
    http_option,
    insecure_router_option,
    jsonrpc_option,
    log_level_option,
    router_option,
    store_parts,
    store_with_login,
)
from common.paths import data_dir
from common.roll import roll
from common.store_login import mask_url
from common.store_url import describe_store_url
from common.supervisor import Child, Stopped, StopSignals, Supervisor

log = logging.getLogger(__name__)

STOP_WITHIN_S: Final = 10.0
"""How long a part may take to finish what it has: longer than any request's deadline."""

LOOK_EVERY_S: Final = 0.05
STORE_READY_WITHIN_S: Final = 60.0
"""Replaying a large append-only file takes a while."""

EMBEDDED_LEVELS: Final = ("everysec", "always")

PARTS: Final = ("balancer", "gateway", "rater", "load")
"""Commands that run as its children: with a wrong setting they would be started again and again."""

Look = Callable[[], None]
"""Waits a moment and notices deaths of children meanwhile."""


def ratel(*args: str) -> list[str]:
    """The command line of a subcommand in this same installation."""
    return [sys.executable, "-m", "common.cli", *args]


class Wanted(NamedTuple):
    """The cluster that was asked for."""

    raters: int
    gateways: int
    durability: str
    replicas: int
    jsonrpc: Address
    http: Address
    router: Address
    insecure_router: bool
    log_level: str
    guard: tuple[str, ...]
    """Of the front: who is let in."""


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
        raters, gateways, durability, replicas, jsonrpc, http_, router, insecure_router, log_level, guard
    )
    given = GivenStore(**store)
    _refuse_what_can_t_be(wanted, given)
    config.check_parts(click.get_current_context(), PARTS)
    stop, supervisor = StopSignals(), Supervisor()

    def look() -> None:
        """Wait a moment, then notice deaths. Raises Stopped."""
        stop.wait(LOOK_EVERY_S)
        supervisor.watch()

    # Every wait is a `look`, and whatever was started by then is stopped at the end, the disk's sync last.
    with contextlib.ExitStack() as ends:
        ends.callback(stop.ignore)
        try:
            entrance, backdoor = _open_doors(wanted)
            there = entrance[0].addresses | backdoor.addresses
            wanted = wanted._replace(jsonrpc=there["jsonrpc"], http=there["http"], router=there["router"])
            front = _front(wanted, entrance, backdoor)
            began_s = time.monotonic()
            store_url = _start(supervisor, look, ends, wanted, given, front)
            if paths:
                _load(look, paths, tenant)
            _wait_until_ready(look, front, wanted.http, store_url)
            click.echo(f"ready after {time.monotonic() - began_s:.1f} s; Ctrl-C stops it")
            for example in examples:
                click.echo(f"$ ratel call {example}")
                _run(look, ratel("call", "--address", str(wanted.jsonrpc), *shlex.split(example)))
            _keep_running(stop, supervisor, look)
        except Stopped:
            click.echo("stopping")
        finally:
            supervisor.stop()
    click.echo("stopped")


class GivenStore(NamedTuple):
    """The options of a store that runs already, or of the embedded one."""

    store_url: str | None
    data: Path | None
    store_password_file: Path | None
    sentinel_password_file: Path | None


def _refuse_what_can_t_be(wanted: Wanted, given: GivenStore) -> None:
    with contextlib.suppress(OSError):  # a name that stands for nothing: `_claim` says so
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


def _start(
    supervisor: Supervisor,
    look: Look,
    ends: contextlib.ExitStack,
    wanted: Wanted,
    given: GivenStore,
    front: list[list[Child]],
) -> str:
    """Start everything and say where it is; the URL of the store."""
    if given.store_url is None:
        store = _start_store(supervisor, look, (given.data or data_dir()).absolute(), wanted.durability)
        if wanted.durability == "everysec":
            disk_sync = DiskSync(store.data_dir)
            disk_sync.start()
            ends.callback(disk_sync.stop)
        # For the children not its URL, which may be another one when the store is started again.
        shown_url, store_url = store.url, f"embedded:{store.data_dir}"
    else:
        shown_url, store_url = describe_store_url(given.store_url), given.store_url
    _tell_children(store_url, given)
    supervisor.add(*_raters(wanted))
    for group in front:
        supervisor.add(*group)
    raters, gateways = wanted.raters, wanted.gateways
    shared = f", {gateways} gateway{'s' if gateways > 1 else ''}" if gateways else ""
    click.echo(f"  store     {shown_url}")
    click.echo(f"  json-rpc  {wanted.jsonrpc}")
    click.echo(f"  http      http://{wanted.http}")
    click.echo(f"  router    {wanted.router}, {raters} rater{'s' if raters > 1 else ''}{shared}")
    return store_url


def _tell_children(store_url: str, given: GivenStore) -> None:
    """Say by the environment which store it is: a URL may hold a password, which no command line may show."""
    os.environ["RATEL_STORE"] = store_url
    for name, file in (
        ("RATEL_STORE_PASSWORD_FILE", given.store_password_file),
        ("RATEL_SENTINEL_PASSWORD_FILE", given.sentinel_password_file),
        (config.FILE_VARIABLE, config.file_in_use(click.get_current_context()).path),
    ):
        if file is not None:
            os.environ[name] = str(file.absolute())


def _open_doors(wanted: Wanted) -> tuple[list[Doors], Doors]:
    """What the front listens on, for each gateway where there are several, and where raters join."""
    entrance = {"jsonrpc": wanted.jsonrpc, "http": wanted.http}
    try:
        backdoor = Doors({"router": wanted.router})
        with contextlib.ExitStack() as undo:
            undo.callback(backdoor.close)
            doors = open_several(wanted.gateways, entrance) if wanted.gateways > 1 else [Doors(entrance)]
            undo.pop_all()
        return doors, backdoor
    except CannotOpen as error:
        raise click.ClickException(str(error)) from None


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
        supervisor.add(Child("store", store.command, stop_within_s=STOP_WITHIN_S, can_be_replaced=False))
    except EmbeddedStoreError as error:
        raise click.ClickException(str(error)) from None
    deadline_s = time.monotonic() + STORE_READY_WITHIN_S
    while not store.is_ready():
        if time.monotonic() > deadline_s:
            raise click.ClickException(f"the store in {data} is not ready after {STORE_READY_WITHIN_S:.0f} s")
        look()
    return store


def _raters(wanted: Wanted) -> list[Child]:
    promise = ["--durability", wanted.durability, "--replicas", str(wanted.replicas)]
    command = ratel("rater", "--balancer", str(wanted.router), *promise, *_log_options(wanted))
    return [_child(f"rater-{number}", command) for number in range(1, wanted.raters + 1)]


def _log_options(wanted: Wanted) -> list[str]:
    return ["--log-level", wanted.log_level, "--log-format", chosen_format()]


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
        with contextlib.suppress(OSError):  # it is said when the address is claimed
            if is_exposed(address):
                raise click.ClickException(refusal(option, address, API_KEYS_REMEDY))
    return ()


def _front(wanted: Wanted, entrance: list[Doors], backdoor: Doors) -> list[list[Child]]:
    """Groups to be added last, so stopped first, the gateways before the balancer: each answers what is in
    flight while those behind it are still there."""
    listen = ["--jsonrpc", str(wanted.jsonrpc), "--http", str(wanted.http), *wanted.guard]
    router, level = str(wanted.router), _log_options(wanted)
    join = ["--router", router, *(["--insecure-router"] if wanted.insecure_router else [])]
    if not wanted.gateways:
        [doors] = entrance
        doors.join(backdoor)
        return [[_child("balancer", ratel("balancer", *listen, *join, *level), doors)]]
    nowhere = ["--jsonrpc", NOWHERE, "--http", NOWHERE]
    gateway = ratel("gateway", *listen, "--balancer", router, *level)
    return [
        [_child("balancer", ratel("balancer", *nowhere, *join, *level), backdoor)],
        [_child(f"gateway-{number}", gateway, doors) for number, doors in enumerate(entrance, 1)],
    ]


def _child(name: str, command: list[str], doors: Doors | None = None) -> Child:
    return Child(name, lambda: command, stop_within_s=STOP_WITHIN_S, doors=doors)


def _load(look: Look, paths: tuple[str, ...], tenant: str | None) -> None:
    options = ["--tenant", tenant] if tenant else []
    if _run(look, ratel("load", *options, *paths)):
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


def _wait_until_ready(look: Look, front: list[list[Child]], http_: Address, store_url: str) -> None:
    while not all(child.ready for group in front for child in group):  # till then nobody answers the door
        look()
    hint_at_s = time.monotonic() + 5.0
    while not _is_ready(http_):
        if time.monotonic() > hint_at_s:
            hint_at_s = float("inf")
            click.echo(f"waiting for a tariff: ratel load --store {shlex.quote(mask_url(store_url))} PATH")
        look()


def _keep_running(stop: StopSignals, supervisor: Supervisor, look: Look) -> None:
    """Until Stopped is raised. A SIGHUP is a request to replace what runs, or the end of the terminal."""
    in_terminal = _is_in_terminal()
    while True:
        look()
        if not stop.take_hangup():
            continue
        if in_terminal and not _is_in_terminal():
            raise Stopped
        roll(supervisor, look)


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
