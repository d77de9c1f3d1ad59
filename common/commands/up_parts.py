"""What `ratel up` is made of: the cluster that was asked for, and each part of it as a child to be started.

When and in which order they are started is `common.commands.up_command`'s.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import click

from common.addresses import NOWHERE, Address
from common.logs import chosen_format
from common.process.doors import CannotOpen, Doors, open_several
from common.process.supervisor import Child, Supervisor
from common.settings import config
from common.settings.config_show import setting_of
from common.storage.embedded_store import EmbeddedStore, EmbeddedStoreError

MAX_PORT: Final = 65_535

STOP_WITHIN_S: Final = 10.0
"""How long a part may take to finish what it has: longer than any request's deadline."""


LOOK_EVERY_S: Final = 0.05


STORE_READY_WITHIN_S: Final = 60.0
"""Replaying a large append-only file takes a while."""


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
    metrics: Address | None = None
    """For Prometheus: of the balancer; gateways and raters have the ports behind it. Where it is not given, a
    part's own setting holds."""


class GivenStore(NamedTuple):
    """The options of a store that runs already, or of the embedded one."""

    store_url: str | None
    data: Path | None
    store_password_file: Path | None
    sentinel_password_file: Path | None


def tell_children(store_url: str, given: GivenStore) -> None:
    """Say by the environment which store it is: a URL may hold a password, which no command line may show."""
    os.environ["RATEL_STORE"] = store_url
    for name, file in (
        ("RATEL_STORE_PASSWORD_FILE", given.store_password_file),
        ("RATEL_SENTINEL_PASSWORD_FILE", given.sentinel_password_file),
        (config.FILE_VARIABLE, config.file_in_use(click.get_current_context()).path),
    ):
        if file is not None:
            os.environ[name] = str(file.absolute())


def open_doors(wanted: Wanted) -> tuple[list[Doors], Doors]:
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


def metrics_doors(wanted: Wanted) -> dict[str, Doors]:
    """A port for each child that tells of itself, by the child's name, in this order; port 0 is any free one
    for each.

    A part's own setting is one address, which is for the first of its children: the next have the next ports.
    """
    kinds = {
        "balancer": ["balancer"],
        "gateway": [f"gateway-{number}" for number in range(1, wanted.gateways + 1)],
        "rater": [f"rater-{number}" for number in range(1, wanted.raters + 1)],
    }
    doors: dict[str, Doors] = {}
    with contextlib.ExitStack() as undo:
        if wanted.metrics is not None:
            _open_row(
                doors, undo, [name for names in kinds.values() for name in names], wanted.metrics, "--metrics"
            )
        else:
            for part, names in kinds.items():
                setting = setting_of(click.get_current_context(), part, "metrics") if names else None
                if setting is not None:
                    _open_row(doors, undo, names, setting.value, setting.origin)
        undo.pop_all()
    return doors


def _open_row(
    doors: dict[str, Doors], undo: contextlib.ExitStack, names: list[str], first: Address, whence: str
) -> None:
    """Neighbouring ports. Raises ClickException, which says where the address comes from."""
    host, port = first
    if port and port + len(names) - 1 > MAX_PORT:
        raise click.ClickException(f"{whence}: {len(names)} ports from {port} on end beyond {MAX_PORT}")
    for place, name in enumerate(names):
        try:
            doors[name] = Doors({"metrics": Address(host, port + place if port else 0)})
        except CannotOpen as error:
            raise click.ClickException(f"{whence}: {error}, for {name}") from None
        undo.callback(doors[name].close)


def start_store(supervisor: Supervisor, look: Look, data: Path, durability: str) -> EmbeddedStore:
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


def promise(wanted: Wanted) -> list[str]:
    """Of those who write to the store: what must be certain before they say so."""
    return ["--durability", wanted.durability, "--replicas", str(wanted.replicas)]


def rater_children(wanted: Wanted, metrics: Mapping[str, Doors]) -> list[Child]:
    command = ratel("rater", "--balancer", str(wanted.router), *promise(wanted), *_log_options(wanted))
    names = [f"rater-{number}" for number in range(1, wanted.raters + 1)]
    return [_child(name, command, metrics.get(name)) for name in names]


def front_children(
    wanted: Wanted, entrance: list[Doors], backdoor: Doors, metrics: Mapping[str, Doors]
) -> list[list[Child]]:
    """Groups to be added last, so stopped first, the gateways before the balancer: each answers what is in
    flight while those behind it are still there."""
    listen = ["--jsonrpc", str(wanted.jsonrpc), "--http", str(wanted.http), *wanted.guard]
    router, level = str(wanted.router), _log_options(wanted)
    if "balancer" in metrics:
        backdoor.join(metrics["balancer"])
    for number, doors in enumerate(entrance, 1):
        if (name := f"gateway-{number}") in metrics:
            doors.join(metrics[name])
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


def _log_options(wanted: Wanted) -> list[str]:
    return ["--log-level", wanted.log_level, "--log-format", chosen_format()]


def _child(name: str, command: list[str], doors: Doors | None = None) -> Child:
    return Child(name, lambda: command, stop_within_s=STOP_WITHIN_S, doors=doors)
