"""The front that balancers and gateways have in common: JSON-RPC over TCP and HTTP, one event loop.

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
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

import click
import uvloop

from balancer.dispatch import DispatchSettings
from balancer.http_gateway import HttpGateway
from balancer.router import Router
from balancer.tcp_gateway import TcpGateway
from balancer.zmq_gateway import ZmqGateway
from common.addresses import Address
from common.limits import raise_file_limit
from common.options import http_option, jsonrpc_option, log_level_option, shared

log = logging.getLogger(__name__)

GRACE_S: Final = 0.2
"""After the signal, requests that were on their way are still taken for this long."""

CLOSE_S: Final = 2.0
"""For the last answers to reach their clients, beyond the deadline of the requests."""

GC_THRESHOLDS: Final = (50_000, 20, 100)
"""A busy balancer makes many objects and no cycles: looking for those every 700 objects costs 10 %."""


@dataclass(frozen=True, slots=True)
class FrontSettings:
    jsonrpc: Address | None
    http: Address | None
    """None: not at all."""
    reuse_port: bool
    """Other processes listen on the same ports; the kernel shares the connections out."""
    dispatch: DispatchSettings
    stuck_s: float


class CannotListen(Exception):
    pass


def options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of a front; `settings_of` makes its settings of them."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


_OPTIONS: Final = (
    jsonrpc_option(
        "Listen for JSON-RPC over TCP here; port 0 takes a free one, `none` is not to listen.", or_none=True
    ),
    http_option("Listen for HTTP here, or `none`.", or_none=True),
    shared(
        "front",
        "--reuse-port",
        is_flag=True,
        envvar="RATEL_REUSE_PORT",
        help="Share these two ports with other processes that say so too (SO_REUSEPORT).",
    ),
    shared(
        "front",
        "--deadline",
        "deadline_ms",
        type=click.IntRange(100, 60_000),
        default=5000,
        envvar="RATEL_DEADLINE",
        help="Milliseconds from a request's arrival to its answer, whatever happens.",
    ),
    shared(
        "front",
        "--max-queued",
        type=click.IntRange(1, 1_000_000),
        default=20_000,
        envvar="RATEL_MAX_QUEUED",
        help="Requests waiting and in flight; beyond it the answer is the error overloaded.",
    ),
    shared(
        "front",
        "--max-wait",
        "max_wait_ms",
        type=click.IntRange(10, 60_000),
        default=500,
        envvar="RATEL_MAX_WAIT",
        help="Milliseconds until an answer that are too long while raters work: beyond what they do in it, "
        "the answer is the error overloaded at once. At most half of the deadline.",
    ),
    shared(
        "front",
        "--stuck",
        "stuck_s",
        type=click.IntRange(1, 3600),
        default=30,
        envvar="RATEL_STUCK",
        help="Seconds after which a client is let go that does not read its answers.",
    ),
    log_level_option(),
)


def settings_of(
    jsonrpc: Address | None,
    http_: Address | None,
    reuse_port: bool,
    deadline_ms: int,
    max_queued: int,
    max_wait_ms: int,
    stuck_s: int,
) -> FrontSettings:
    dispatch = DispatchSettings(
        deadline_us=deadline_ms * 1000, max_queued=max_queued, max_wait_us=max_wait_ms * 1000
    )
    return FrontSettings(jsonrpc, http_, reuse_port, dispatch, stuck_s)


def run(name: str, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a process' event loop to its end; says on stderr why it can't listen, and ends with 1."""
    raise_file_limit()
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())
    except CannotListen as error:
        click.echo(f"ratel {name}: {error}", err=True)
        sys.exit(1)


async def serve(settings: FrontSettings, router: Router, clients: ZmqGateway | None, where: str) -> None:
    """Open the front of a router that is not open yet, and run until SIGTERM or SIGINT. Raises CannotListen.

    `where` is said in the log, about the router itself.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    deadline_s = settings.dispatch.deadline_us / 1_000_000
    with contextlib.ExitStack() as listeners:
        tcp, http = (
            TcpGateway(router, settings.stuck_s),
            HttpGateway(router, GRACE_S + deadline_s + CLOSE_S, settings.stuck_s),
        )
        tcp_listener = _listen(listeners, "jsonrpc", settings.jsonrpc, settings.reuse_port)
        http_listener = _listen(listeners, "http", settings.http, settings.reuse_port)
        router.open()
        if tcp_listener is not None:
            await tcp.open(tcp_listener)
        if http_listener is not None:
            await http.open(http_listener)
        log.info(
            "listening jsonrpc=%s http=%s %s",
            _bound(settings.jsonrpc, tcp_listener),
            _bound(settings.http, http_listener),
            where,
        )
        gc.freeze()
        await stop.wait()
        log.info("draining unanswered=%s", router.unanswered)
        tcp.stop_accepting()
        http.stop_accepting()
        if clients is not None:
            clients.leave()
        await asyncio.sleep(GRACE_S)
        router.refuse_new()
        async with asyncio.TaskGroup() as draining:
            draining.create_task(tcp.drain(deadline_s + CLOSE_S))
            draining.create_task(http.drain())
            if clients is not None:
                draining.create_task(clients.drain(deadline_s + CLOSE_S))
        log.info("stopped")


def _listen(
    listeners: contextlib.ExitStack, name: str, address: Address | None, reuse_port: bool
) -> socket.socket | None:
    if address is None:
        return None
    try:
        family, _, _, _, resolved = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.create_server(resolved[:2], family=family, reuse_port=reuse_port)
    except OSError as error:
        raise CannotListen(why(name, address, error)) from None
    return listeners.enter_context(listener)


def _bound(address: Address | None, listener: socket.socket | None) -> str:
    if address is None or listener is None:
        return "none"
    return str(address._replace(port=listener.getsockname()[1]))


def why(name: str, address: Address, error: OSError) -> str:
    # `socket` adds the address to the text; errors of name resolution have negative numbers.
    reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or error
    return f"can't listen on {address} (--{name}): {reason}"
