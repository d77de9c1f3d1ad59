"""`ratel balancer`: both gateways and the dispatch, one process, one event loop.

On SIGTERM or SIGINT it stops accepting connections, still takes what was on its way for a moment,
refuses what comes later, answers what is in flight (each at its deadline at the latest), closes
the connections and ends with code 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from dataclasses import dataclass
from typing import Final

import click
import uvloop

from balancer.dispatch import DispatchSettings
from balancer.http_gateway import HttpGateway
from balancer.router import Router
from balancer.tcp_gateway import TcpGateway
from common.addresses import Address, AddressType
from common.limits import raise_file_limit
from common.logs import LEVELS, setup

log = logging.getLogger(__name__)

GRACE_S: Final = 0.2
"""After the signal, requests that were on their way are still taken for this long."""

CLOSE_S: Final = 2.0
"""For the last answers to reach their clients, beyond the deadline of the requests."""

GC_THRESHOLDS: Final = (50_000, 20, 100)
"""A busy balancer makes many objects and no cycles: looking for those every 700 objects costs 10 %."""


@dataclass(frozen=True, slots=True)
class BalancerSettings:
    jsonrpc: Address
    http: Address
    router: Address
    dispatch: DispatchSettings
    stuck_s: float


class CannotListen(Exception):
    pass


@click.command()
@click.option(
    "--jsonrpc",
    type=AddressType(),
    default="127.0.0.1:2001",
    show_default=True,
    envvar="RATEL_JSONRPC",
    show_envvar=True,
    help="Listen for JSON-RPC over TCP here; port 0 takes a free one.",
)
@click.option(
    "--http",
    "http_",
    type=AddressType(),
    default="127.0.0.1:8000",
    show_default=True,
    envvar="RATEL_HTTP",
    show_envvar=True,
    help="Listen for HTTP here.",
)
@click.option(
    "--router",
    type=AddressType(),
    default="127.0.0.1:2000",
    show_default=True,
    envvar="RATEL_ROUTER",
    show_envvar=True,
    help="Listen for raters (ZeroMQ) here.",
)
@click.option(
    "--deadline",
    "deadline_ms",
    type=click.IntRange(100, 60_000),
    default=5000,
    show_default=True,
    envvar="RATEL_DEADLINE",
    show_envvar=True,
    help="Milliseconds from a request's arrival to its answer, whatever happens.",
)
@click.option(
    "--max-queued",
    type=click.IntRange(1, 1_000_000),
    default=20_000,
    show_default=True,
    envvar="RATEL_MAX_QUEUED",
    show_envvar=True,
    help="Requests waiting and in flight; beyond it the answer is the error overloaded.",
)
@click.option(
    "--max-wait",
    "max_wait_ms",
    type=click.IntRange(10, 60_000),
    default=500,
    show_default=True,
    envvar="RATEL_MAX_WAIT",
    show_envvar=True,
    help="Milliseconds until an answer that are too long while raters work: beyond what they do in it, the "
    "answer is the error overloaded at once. At most half of the deadline.",
)
@click.option(
    "--stuck",
    "stuck_s",
    type=click.IntRange(1, 3600),
    default=30,
    show_default=True,
    envvar="RATEL_STUCK",
    show_envvar=True,
    help="Seconds after which a client is let go that does not read its answers.",
)
@click.option(
    "--log-level",
    type=click.Choice(LEVELS),
    default="info",
    show_default=True,
    envvar="RATEL_LOG_LEVEL",
    show_envvar=True,
)
def balancer(
    jsonrpc: Address,
    http_: Address,
    router: Address,
    deadline_ms: int,
    max_queued: int,
    max_wait_ms: int,
    stuck_s: int,
    log_level: str,
) -> None:
    """Run a balancer: JSON-RPC over TCP and HTTP in front, raters behind.

    It keeps no state: run as many as you like, and have every rater join all of them. SIGTERM lets
    it answer what is in flight, then ends it.
    """
    setup(log_level)
    dispatch = DispatchSettings(
        deadline_us=deadline_ms * 1000, max_queued=max_queued, max_wait_us=max_wait_ms * 1000
    )
    settings = BalancerSettings(jsonrpc, http_, router, dispatch, stuck_s)
    raise_file_limit()
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings))
    except CannotListen as error:
        click.echo(f"ratel balancer: {error}", err=True)
        sys.exit(1)


async def serve(settings: BalancerSettings) -> None:
    """Runs until SIGTERM or SIGINT. Raises CannotListen."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    deadline_s = settings.dispatch.deadline_us / 1_000_000
    router = Router(settings.dispatch)
    with contextlib.closing(router), contextlib.ExitStack() as listeners:
        tcp_listener = listeners.enter_context(_listen("jsonrpc", settings.jsonrpc))
        http_listener = listeners.enter_context(_listen("http", settings.http))
        try:
            router_address = router.open(settings.router)
        except OSError as error:
            raise CannotListen(_why("router", settings.router, error)) from None
        tcp, http = (
            TcpGateway(router, settings.stuck_s),
            HttpGateway(router, GRACE_S + deadline_s + CLOSE_S, settings.stuck_s),
        )
        await tcp.open(tcp_listener)
        await http.open(http_listener)
        log.info(
            "listening jsonrpc=%s http=%s router=%s",
            settings.jsonrpc._replace(port=tcp_listener.getsockname()[1]),
            settings.http._replace(port=http_listener.getsockname()[1]),
            router_address,
        )
        gc.freeze()
        await stop.wait()
        log.info("draining unanswered=%s", router.unanswered)
        tcp.stop_accepting()
        http.stop_accepting()
        await asyncio.sleep(GRACE_S)
        router.refuse_new()
        async with asyncio.TaskGroup() as draining:
            draining.create_task(tcp.drain(deadline_s + CLOSE_S))
            draining.create_task(http.drain())
        log.info("stopped")


def _listen(name: str, address: Address) -> socket.socket:
    try:
        family, _, _, _, resolved = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(resolved[:2], family=family)
    except OSError as error:
        raise CannotListen(_why(name, address, error)) from None


def _why(name: str, address: Address, error: OSError) -> str:
    # `socket` adds the address to the text; errors of name resolution have negative numbers.
    reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or error
    return f"can't listen on {address} (--{name}): {reason}"
