"""`ratel balancer`: the front and the dispatch to raters in one process."""

from __future__ import annotations

import contextlib
import logging
import secrets
import socket
from pathlib import Path
from typing import Any

import click

from balancer import front, front_options
from balancer.gate import Gate
from balancer.peers import Exposed, RouterPeers
from balancer.router import Router
from balancer.zmq_gateway import ZmqGateway
from common.addresses import EXPOSED, Address
from common.commands.curve_options import KeyFile
from common.logs import setup
from common.security.curve import AuthorizedKeys, KeyFileError, Role, SecretKey
from common.settings.options import insecure_router_option, metrics_option, router_option

log = logging.getLogger(__name__)


@click.command()
@router_option("Listen for raters, gateways and other ZeroMQ clients here.")
@click.option(
    "--curve-key",
    type=KeyFile(Role.BALANCER, secret=True),
    envvar="RATEL_BALANCER_CURVE_KEY",
    show_envvar=True,
    help="File with this balancer's secret key, see `ratel keys`: the router port speaks encrypted then, and "
    "only with keys in --authorized-keys.  [default: neither]",
)
@click.option(
    "--authorized-keys",
    type=click.Path(path_type=Path),
    envvar="RATEL_BALANCER_AUTHORIZED_KEYS",
    show_envvar=True,
    help="Folder with the public keys of raters and clients that are let in. It is looked at all the time.",
)
@insecure_router_option
@metrics_option("balancer", "RATEL_BALANCER_METRICS")
@front_options.options
def balancer(
    router: Address,
    curve_key: SecretKey | None,
    authorized_keys: Path | None,
    insecure_router: bool,
    log_level: str,
    **options: Any,
) -> None:
    """Run a balancer: JSON-RPC over TCP and HTTP in front, raters behind.

    It keeps no state: run as many as you like, and have every rater join all of them. SIGTERM lets
    it answer what is in flight, then ends it.

    \b
    Examples:
      ratel balancer --http 0.0.0.0:8000 --api-keys /etc/ratel/api-keys.json
      ratel balancer --router 10.0.0.1:2000 --curve-key balancer.key --authorized-keys authorized
      ratel balancer --jsonrpc none --http none      # only for gateways, see `ratel gateway`
    """
    setup(log_level)
    settings = front_options.settings_of(**options)
    gate = gate_of(curve_key, authorized_keys)
    front.run("balancer", lambda: serve(settings, router, gate, insecure_router))


def gate_of(key: SecretKey | None, folder: Path | None) -> Gate | None:
    """Raises click.UsageError."""
    if key is None and folder is None:
        return None
    if key is None or folder is None:
        raise click.UsageError("--curve-key and --authorized-keys go together")
    try:
        return Gate(key, AuthorizedKeys(folder))
    except KeyFileError as error:
        raise click.BadParameter(str(error), param_hint="--authorized-keys") from None


async def serve(
    settings: front_options.FrontSettings, address: Address, gate: Gate | None, insecure_router: bool
) -> None:
    """Runs until SIGTERM or SIGINT. Raises CannotListen."""
    handed = front.handed_over("jsonrpc", "http", "router", "metrics")
    peers = RouterPeers(gate)
    life = secrets.token_hex(8)
    router = Router(settings.dispatch, peers, life)
    with contextlib.closing(router):
        try:
            bound = peers.bind(address, handed.pop("router", None), insecure=insecure_router)
        except Exposed as exposed:
            raise front.CannotListen(EXPOSED.format(*exposed.args)) from None
        except OSError as error:
            raise front.CannotListen(front.why("router", address, error)) from None
        if gate is None and insecure_router:
            log.warning("router=%s takes whoever reaches it, unencrypted (--insecure-router)", bound)
        name = f"{socket.gethostname()}-{life[:4]}"
        clients = ZmqGateway(router, name, settings.dispatch.max_queued)
        await front.serve(settings, router, clients, f"router={bound}", handed)
