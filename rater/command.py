"""`ratel rater`: one worker process."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import zoneinfo
from pathlib import Path
from typing import Final

import click
import zmq

from common.addresses import Address, AddressType
from common.commands.curve_options import curve_options, dealer_keys
from common.limits import collect_rarely
from common.logs import setup
from common.process import listen_fds
from common.security.api_keys import BadKeyFile
from common.security.curve import PublicKey, Role, SecretKey
from common.security.exposure import API_KEYS_REMEDY, is_exposed, refusal
from common.security.key_file import WatchedKeyring
from common.settings.options import (
    allow_insecure_option,
    api_keys_option,
    balancers_option,
    durability_options,
    durability_timeout_option,
    key_ttl_option,
    log_level_option,
    metrics_option,
    store_option,
)
from common.storage.durability import Durability, Level
from common.storage.store_url import StoreUrlError, describe_store_url
from common.storage.stores import Store, connect
from rater.accounts.mutation import JOURNAL_LINES
from rater.direct import DirectServer
from rater.link import Link
from rater.tariffs.watch import EMPTY, TariffWatch
from rater.work.cluster_service import service_for
from rater.worker import Worker

log = logging.getLogger(__name__)

STORE_TIMEOUT_MS: Final = 1000
"""A store that does not answer for this long is given up and connected to anew: under the
balancer's patience with a silent rater (three heartbeats of 500 ms)."""

DAY_S: Final = 86_400


@click.command()
@balancers_option("Join this balancer's router port; repeat for each balancer.  [default: 127.0.0.1:2000]")
@curve_options(Role.RATER, "RATEL_RATER_CURVE_KEY")
@store_option
@durability_options(
    "What must be certain before a change is acknowledged: no more than that it was made, that it is on "
    "the primary's disk (always), in the memory of replicas (replicated), or on the disks of both."
)
@durability_timeout_option
@click.option(
    "--jsonrpc",
    type=AddressType(),
    envvar="RATEL_RATER_JSONRPC",
    show_envvar=True,
    help="Answer JSON-RPC here too, without a balancer; port 0 is any free one.",
)
@api_keys_option(
    "With --jsonrpc: let in only who has one of the API keys in this file, as `ratel balancer` does."
)
@allow_insecure_option
@click.option(
    "--name",
    envvar="RATEL_RATER_NAME",
    show_envvar=True,
    help="Name in logs and tables.  [default: host-pid-random]",
)
@click.option(
    "--credit",
    type=click.IntRange(1, 100_000),
    default=1024,
    show_default=True,
    envvar="RATEL_RATER_CREDIT",
    show_envvar=True,
    help="Requests that each balancer may have in flight here.",
)
@click.option(
    "--deadline",
    "deadline_ms",
    type=click.IntRange(10, 600_000),
    default=5000,
    show_default=True,
    envvar="RATEL_RATER_DEADLINE",
    show_envvar=True,
    help="Milliseconds for a request that came over --jsonrpc.",
)
@click.option(
    "--max-call",
    "max_call_s",
    type=click.IntRange(1, 366 * DAY_S),
    default=31 * DAY_S,
    show_default=True,
    envvar="RATEL_RATER_MAX_CALL",
    show_envvar=True,
    help="Longest call that is rated, in seconds.",
)
@metrics_option("rater", "RATEL_RATER_METRICS")
@key_ttl_option(60, 366 * DAY_S, DAY_S, "Seconds that a client's RequestId is remembered.")
@click.option(
    "--journal-lines",
    type=click.IntRange(100, 10_000_000),
    default=JOURNAL_LINES,
    show_default=True,
    envvar="RATEL_RATER_JOURNAL_LINES",
    show_envvar=True,
    help="Lines that each account's journal keeps, about.",
)
@log_level_option()
def rater(
    balancers: tuple[Address, ...],
    curve_key: SecretKey | None,
    curve_server_keys: tuple[PublicKey, ...],
    store_url: str,
    durability: str,
    replicas: int,
    durability_timeout_ms: int,
    jsonrpc: Address | None,
    metrics: Address | None,
    api_keys: Path | None,
    allow_insecure: bool,
    name: str | None,
    credit: int,
    deadline_ms: int,
    max_call_s: int,
    key_ttl_s: int,
    journal_lines: int,
    log_level: str,
) -> None:
    """Run a rater: it joins balancers, takes their requests in batches and answers them.

    SIGTERM and Ctrl-C drain it: it finishes what it has, takes no more, and says goodbye.

    \b
    Examples:
      ratel rater --store redis://127.0.0.1:6379/0 --balancer 10.0.0.1:2000 --balancer 10.0.0.2:2000
      ratel rater --jsonrpc 127.0.0.1:2011
    """
    setup(log_level)
    collect_rarely()
    # The locked package's time zones, not the host's: every rater must price an hour alike.
    zoneinfo.reset_tzpath(to=())
    name = name or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
    work_store, watch_store = connect_twice(store_url)
    endpoints = balancers or (() if jsonrpc else (Address("127.0.0.1", 2000),))
    keys = dealer_keys(curve_key, curve_server_keys, len(endpoints))
    service = service_for(
        work_store,
        EMPTY,
        key_ttl_ms=key_ttl_s * 1000,
        journal_lines=journal_lines,
        durability=Durability(Level(durability), replicas, durability_timeout_ms),
    )
    watch = TariffWatch(name, watch_store, max_call_s * 1_000_000)
    direct = None
    if jsonrpc is not None:
        if api_keys is None and not allow_insecure and is_exposed(jsonrpc):
            raise click.ClickException(refusal("--jsonrpc", jsonrpc, API_KEYS_REMEDY))
        direct = listen(jsonrpc, name, deadline_ms, api_keys)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    # A name may be given, and lives again after a restart; to a balancer each life is another rater.
    identity = f"{name}-{secrets.token_hex(8)}"
    links = [
        Link(context, endpoint, identity, credit, keys=own)
        for endpoint, own in zip(endpoints, keys, strict=True)
    ]
    worker = Worker(name, service, watch, links, direct)
    worker.stop_on_signals()
    serve_metrics(metrics, worker)
    log.info(
        "rater=%s store=%s durability=%s balancers=%s",
        name,
        describe_store_url(store_url),
        durability,
        ",".join(map(str, endpoints)) or "none",
    )
    worker.run()
    context.term()
    log.info("rater=%s goodbye", name)


def connect_twice(store_url: str) -> tuple[Store, Store]:
    """The store for the work loop, and for the thread that watches tariffs."""
    try:
        # The work loop does not wait for one node of a cluster while others could work.
        work_store = connect(store_url, timeout_ms=STORE_TIMEOUT_MS, patience_ms=0)
        return work_store, connect(store_url, timeout_ms=STORE_TIMEOUT_MS)
    except StoreUrlError as error:
        raise click.BadParameter(str(error), param_hint="--store") from None


def listen(jsonrpc: Address, name: str, deadline_ms: int, api_keys: Path | None) -> DirectServer:
    """The rater's own port, which others are told of on the standard output."""
    try:
        keyring = WatchedKeyring(api_keys) if api_keys else None
        direct = DirectServer(jsonrpc.host, jsonrpc.port, name, deadline_ms, keyring)
    except BadKeyFile as error:
        raise click.ClickException(f"--api-keys: {error}") from None
    except OSError as error:
        raise click.ClickException(f"can't listen for JSON-RPC on {jsonrpc}: {error.strerror}") from None
    click.echo(f"listening jsonrpc={jsonrpc._replace(port=direct.port)}")
    return direct


def serve_metrics(address: Address | None, worker: Worker) -> None:
    """On the socket that `ratel up` hands over, or at the address; else not at all."""
    try:
        handed = listen_fds.take(("metrics",)).get("metrics")
    except listen_fds.ListenFdsError as error:
        raise click.ClickException(f"can't use the sockets that were handed over: {error}") from None
    if handed is None and address is None:
        return
    from common.metrics import serve, serve_on  # noqa: PLC0415 - only where it is wanted
    from rater.metrics import registry  # noqa: PLC0415

    try:
        if handed is not None:
            bound = serve_on(handed, registry(worker))
        elif address is not None:
            bound = serve(address, registry(worker))
    except OSError as error:
        raise click.ClickException(f"can't serve metrics on {address}: {error.strerror}") from None
    log.info("metrics=http://%s/metrics", bound)
