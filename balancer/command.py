"""`ratel balancer`: the front and the dispatch to raters in one process."""

from __future__ import annotations

import contextlib
import secrets
import socket
from typing import Any

import click

from balancer import front
from balancer.peers import RouterPeers
from balancer.router import Router
from balancer.zmq_gateway import ZmqGateway
from common.addresses import Address
from common.logs import setup
from common.options import router_option


@click.command()
@router_option("Listen for raters, gateways and other ZeroMQ clients here.")
@front.options
def balancer(
    router: Address,
    log_level: str,
    **options: Any,
) -> None:
    """Run a balancer: JSON-RPC over TCP and HTTP in front, raters behind.

    It keeps no state: run as many as you like, and have every rater join all of them. SIGTERM lets
    it answer what is in flight, then ends it.

    \b
    Examples:
      ratel balancer --http 0.0.0.0:8000 --api-keys /etc/ratel/api-keys.json
      ratel balancer --jsonrpc none --http none      # only for gateways, see `ratel gateway`
    """
    setup(log_level)
    settings = front.settings_of(**options)
    front.run("balancer", lambda: serve(settings, router))


async def serve(settings: front.FrontSettings, address: Address) -> None:
    """Runs until SIGTERM or SIGINT. Raises CannotListen."""
    handed = front.handed_over("jsonrpc", "http", "router")
    peers = RouterPeers()
    life = secrets.token_hex(8)
    router = Router(settings.dispatch, peers, life)
    with contextlib.closing(router):
        try:
            bound = peers.bind(address, handed.pop("router", None))
        except OSError as error:
            raise front.CannotListen(front.why("router", address, error)) from None
        name = f"{socket.gethostname()}-{life[:4]}"
        clients = ZmqGateway(router, name, settings.dispatch.max_queued)
        await front.serve(settings, router, clients, f"router={bound}", handed)
