"""The front that balancers and gateways have in common: JSON-RPC over TCP and HTTP, one event loop.

On SIGTERM or SIGINT it says at /readyz that it ends, and in each HTTP response that this is the last one of
its connection (for as long as `--lame-duck` says it still accepts connections, too). Then it stops accepting,
still takes what was on its way for a moment, refuses what comes later, answers what is in flight (each at its
deadline at the latest), closes the connections and ends with code 0.

Its listening sockets may be handed to it (`common.process.listen_fds`): then connections that come while it
is being restarted wait for its successor.
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
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Final

import click
import uvloop

from balancer.front_options import FrontSettings
from balancer.http.gateway import HttpGateway
from balancer.metrics import registry
from balancer.pulse import Pulse
from balancer.router import Router
from balancer.tcp_gateway import TcpGateway
from balancer.tls_entrance import Certificates
from balancer.zmq_gateway import ZmqGateway
from common import metrics
from common.addresses import Address
from common.limits import collect_rarely, raise_file_limit
from common.process import listen_fds
from common.security.api_keys import BadKeyFile
from common.security.exposure import API_KEYS_REMEDY, is_exposed, refusal
from common.security.key_file import LOOK_EVERY_S, WatchedKeyring
from common.security.keyring import Keyring
from common.tls import ServerTls, TlsError

log = logging.getLogger(__name__)

GRACE_S: Final = 0.2
"""After the signal, requests that were on their way are still taken for this long."""

FIRST_REQUEST_S: Final = 1.0
"""Beyond the grace, for clients that have connected and not asked yet: they are about to, and can't know of
the signal. One that waits longer than this after it has connected may find itself cut off."""

LAST_CALLS_S: Final = 0.01
"""A few turns of the event loop."""

CLOSE_S: Final = 2.0
"""For the last answers to reach their clients, beyond the deadline of the requests."""


class CannotListen(Exception):
    pass


def run(name: str, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a process' event loop to its end; says on stderr why it can't listen, and ends with 1."""
    raise_file_limit()
    collect_rarely()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())
    except CannotListen as error:
        click.echo(f"ratel {name}: {error}", err=True)
        sys.exit(1)


def handed_over(*names: str) -> dict[str, socket.socket]:
    """The listening sockets that this process was given, of those it may have. Raises CannotListen."""
    try:
        return listen_fds.take(names)
    except listen_fds.ListenFdsError as error:
        raise CannotListen(f"can't use the sockets that were handed over: {error}") from None


async def serve(
    settings: FrontSettings,
    router: Router,
    clients: ZmqGateway | None,
    where: str,
    handed: Mapping[str, socket.socket],
) -> None:
    """Open the front of a router that is not open yet, and run until SIGTERM or SIGINT. Raises CannotListen.

    `where` is said in the log, about the router itself. Sockets in `handed` take the place of the addresses.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_report_defect)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    deadline_s = settings.dispatch.deadline_us / 1_000_000
    with contextlib.ExitStack() as listeners:
        keyring = _watch_keys(listeners, settings.api_keys)
        certificates = _certificates(listeners, settings.tls)
        drain_s = GRACE_S + deadline_s + CLOSE_S
        tcp, http = (
            TcpGateway(router, settings.stuck_s, keyring, settings.clients, certificates),
            HttpGateway(router, drain_s, settings.stuck_s, keyring, settings.clients, certificates),
        )
        tcp_listener = _listen(listeners, "jsonrpc", settings.jsonrpc, settings, handed)
        http_listener = _listen(listeners, "http", settings.http, settings, handed)
        _serve_metrics(settings.metrics, router, handed.get("metrics"))
        router.open()
        if tcp_listener is not None:
            await tcp.open(tcp_listener)
        if http_listener is not None:
            await http.open(http_listener)
        log.info(
            "listening jsonrpc=%s http=%s %s%s",
            _bound(settings.jsonrpc, tcp_listener, was_handed="jsonrpc" in handed),
            _bound(settings.http, http_listener, was_handed="http" in handed),
            where,
            "" if settings.tls is None else f" tls={settings.tls.clients}",
        )
        gc.freeze()
        pulse = listeners.enter_context(Pulse(router, "raters" if clients is not None else "balancers"))
        await stop.wait()
        pulse.stopping()
        log.info("draining unanswered=%s", router.unanswered)
        http.make_responses_last()
        await asyncio.sleep(settings.lame_duck_s)
        await tcp.stop_accepting()
        await http.stop_accepting()
        if clients is not None:
            clients.leave()
        await asyncio.sleep(GRACE_S)
        give_up_s = loop.time() + FIRST_REQUEST_S
        while (tcp.awaits_first or http.awaits_first) and loop.time() < give_up_s:
            await asyncio.sleep(0.01)
        async with asyncio.TaskGroup() as draining:
            draining.create_task(tcp.drain(deadline_s + CLOSE_S))
            draining.create_task(http.drain())
            # What arrives until the ends of idle connections are written is answered; what comes on busy ones
            # later is refused, so that these come to an end, too.
            await asyncio.sleep(LAST_CALLS_S)
            router.refuse_new()
            draining.create_task(_leave_raters(router, clients, deadline_s + CLOSE_S))
        log.info("stopped")


def _serve_metrics(address: Address | None, router: Router, handed: socket.socket | None) -> None:
    """From a thread of its own, which only reads; as raters do."""
    try:
        if handed is not None:
            bound = metrics.serve_on(handed, registry(router))
        elif address is not None:
            bound = metrics.serve(address, registry(router))
        else:
            return
    except OSError as error:
        raise CannotListen(why("metrics", address, error)) from None
    log.info("metrics=http://%s/metrics", bound)


def _certificates(listeners: contextlib.ExitStack, tls: ServerTls | None) -> Certificates | None:
    if tls is None:
        return None
    try:
        certificates = Certificates(tls)
    except TlsError as error:
        raise CannotListen(str(error)) from None
    certificates.watch()
    listeners.callback(certificates.stop)
    return certificates


async def _leave_raters(router: Router, clients: ZmqGateway | None, timeout_s: float) -> None:
    """Let them go once all is answered, so that they don't wait for the slowest reader of the last answers:
    a successor at the same address gets no work done before it has them."""
    if clients is not None:
        await clients.drain(timeout_s)
    else:
        await router.drain(timeout_s)
    router.close()


def _report_defect(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What the loop itself would say shows arguments of calls, and those hold what clients sent."""
    error = context.get("exception")
    log.error("a defect in the event loop", exc_info=error if isinstance(error, BaseException) else None)


def _watch_keys(stack: contextlib.ExitStack, path: Path | None) -> Keyring | None:
    """The keys in the file, which are those of now for as long as the stack is open."""
    if path is None:
        return None
    try:
        watched = WatchedKeyring(path)
    except BadKeyFile as error:
        raise CannotListen(f"--api-keys: {error}") from None
    following = asyncio.get_running_loop().create_task(_follow(watched))
    stack.callback(following.cancel)
    return watched.keyring


async def _follow(watched: WatchedKeyring) -> None:
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        watched.look()


def _listen(
    listeners: contextlib.ExitStack,
    name: str,
    address: Address | None,
    settings: FrontSettings,
    handed: Mapping[str, socket.socket],
) -> socket.socket | None:
    if name in handed:
        listener = listeners.enter_context(handed[name])
        _refuse_exposed(name, listen_fds.address_of(listener), settings)
        return listener
    if address is None:
        return None
    try:
        _refuse_exposed(name, address, settings)
        family, _, _, _, resolved = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.create_server(resolved[:2], family=family, reuse_port=settings.reuse_port)
    except OSError as error:
        raise CannotListen(why(name, address, error)) from None
    return listeners.enter_context(listener)


def _refuse_exposed(name: str, address: Address, settings: FrontSettings) -> None:
    """Raises CannotListen, and OSError for a name that can't be resolved."""
    if settings.api_keys is None and not settings.allow_insecure and is_exposed(address):
        raise CannotListen(refusal(f"--{name}", address, API_KEYS_REMEDY))


def _bound(address: Address | None, listener: socket.socket | None, *, was_handed: bool) -> str:
    if listener is None:
        return "none"
    there = listen_fds.address_of(listener)
    return str(there if was_handed or address is None else address._replace(port=there.port))


def why(name: str, address: Address | None, error: OSError) -> str:
    # `socket` adds the address to the text; errors of name resolution have negative numbers.
    reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or error
    return f"can't listen on {address} (--{name}): {reason}"
