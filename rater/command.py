"""`ratel rater`: one worker process."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import zoneinfo
from typing import Final

import click
import zmq

from common.addresses import Address, AddressType
from common.durability import DEFAULT_REPLICAS, DEFAULT_TIMEOUT_MS, MAX_TIMEOUT_MS, Durability, Level
from common.durability import LEVELS as DURABILITY_LEVELS
from common.logs import LEVELS, setup
from common.store import StoreUrlError, default_store_url, describe_store_url
from common.stores import connect
from rater.accounts import JOURNAL_LINES
from rater.cluster_service import service_for
from rater.direct import DirectServer
from rater.link import Link
from rater.tariff_watch import EMPTY, TariffWatch
from rater.worker import Worker

log = logging.getLogger(__name__)

STORE_TIMEOUT_MS: Final = 1000
"""A store that does not answer for this long is given up and connected to anew: under the
balancer's patience with a silent rater (three heartbeats of 500 ms)."""

DAY_S: Final = 86_400


@click.command()
@click.option(
    "--balancer",
    "balancers",
    type=AddressType(),
    multiple=True,
    envvar="RATEL_BALANCERS",
    show_envvar=True,
    help="Join this balancer's router port; repeat for each balancer.  [default: 127.0.0.1:2000]",
)
@click.option(
    "--store",
    "store_url",
    envvar="RATEL_STORE",
    show_envvar=True,
    help="The store: redis://, rediss://, unix://, redis+sentinel://, redis+cluster:// or embedded:DIR.  "
    "[default: the store of `ratel up`]",
)
@click.option(
    "--durability",
    type=click.Choice(DURABILITY_LEVELS),
    default=Level.EVERYSEC.value,
    show_default=True,
    envvar="RATEL_DURABILITY",
    show_envvar=True,
    help="What must be certain before a change is acknowledged: no more than that it was made, that it is on "
    "the primary's disk (always), in the memory of replicas (replicated), or on the disks of both.",
)
@click.option(
    "--replicas",
    type=click.IntRange(1, 100),
    default=DEFAULT_REPLICAS,
    show_default=True,
    envvar="RATEL_REPLICAS",
    show_envvar=True,
    help="How many replicas must confirm a change, with --durability replicated or replicated-always.",
)
@click.option(
    "--durability-timeout",
    "durability_timeout_ms",
    type=click.IntRange(1, MAX_TIMEOUT_MS),
    default=DEFAULT_TIMEOUT_MS,
    show_default=True,
    envvar="RATEL_DURABILITY_TIMEOUT",
    show_envvar=True,
    help="Milliseconds in which they must; else the answer is `not_durable`, and the outcome unknown.",
)
@click.option(
    "--jsonrpc",
    type=AddressType(),
    help="Answer JSON-RPC here too, without a balancer; port 0 is any free one.",
)
@click.option("--name", help="Name in logs and tables.  [default: host-pid-random]")
@click.option(
    "--credit",
    type=click.IntRange(1, 100_000),
    default=1024,
    show_default=True,
    help="Requests that each balancer may have in flight here.",
)
@click.option(
    "--deadline",
    "deadline_ms",
    type=click.IntRange(10, 600_000),
    default=5000,
    show_default=True,
    help="Milliseconds for a request that came over --jsonrpc.",
)
@click.option(
    "--max-call",
    "max_call_s",
    type=click.IntRange(1, 366 * DAY_S),
    default=31 * DAY_S,
    show_default=True,
    help="Longest call that is rated, in seconds.",
)
@click.option(
    "--key-ttl",
    "key_ttl_s",
    type=click.IntRange(60, 366 * DAY_S),
    default=DAY_S,
    show_default=True,
    help="Seconds that a client's RequestId is remembered.",
)
@click.option(
    "--journal-lines",
    type=click.IntRange(100, 10_000_000),
    default=JOURNAL_LINES,
    show_default=True,
    help="Lines that each account's journal keeps, about.",
)
@click.option("--log-level", type=click.Choice(LEVELS), default="info", show_default=True)
def rater(
    balancers: tuple[Address, ...],
    store_url: str | None,
    durability: str,
    replicas: int,
    durability_timeout_ms: int,
    jsonrpc: Address | None,
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
    # The locked package's time zones, not the host's: every rater must price an hour alike.
    zoneinfo.reset_tzpath(to=())
    name = name or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
    url = store_url or default_store_url()
    try:
        # The work loop does not wait for one node of a cluster while others could work.
        work_store = connect(url, timeout_ms=STORE_TIMEOUT_MS, patience_ms=0)
        watch_store = connect(url, timeout_ms=STORE_TIMEOUT_MS)
    except StoreUrlError as error:
        raise click.BadParameter(str(error), param_hint="--store") from None
    max_call_us = max_call_s * 1_000_000
    service = service_for(
        work_store,
        EMPTY,
        key_ttl_ms=key_ttl_s * 1000,
        journal_lines=journal_lines,
        durability=Durability(Level(durability), replicas, durability_timeout_ms),
    )
    watch = TariffWatch(name, watch_store, max_call_us)
    direct = None
    if jsonrpc is not None:
        try:
            direct = DirectServer(jsonrpc.host, jsonrpc.port, name, deadline_ms)
        except OSError as error:
            raise click.ClickException(f"can't listen for JSON-RPC on {jsonrpc}: {error.strerror}") from None
        click.echo(f"listening jsonrpc={jsonrpc._replace(port=direct.port)}")
    endpoints = balancers or (() if direct else (Address("127.0.0.1", 2000),))
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    # A name may be given, and lives again after a restart; to a balancer each life is another rater.
    identity = f"{name}-{secrets.token_hex(8)}"
    links = [Link(context, f"tcp://{endpoint}", identity, credit) for endpoint in endpoints]
    worker = Worker(name, service, watch, links, direct)
    worker.stop_on_signals()
    log.info(
        "rater=%s store=%s durability=%s balancers=%s",
        name,
        describe_store_url(url),
        durability,
        ",".join(map(str, endpoints)) or "none",
    )
    worker.run()
    context.term()
    log.info("rater=%s goodbye", name)
