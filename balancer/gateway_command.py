"""`ratel gateway`: the front as a process of its own, for more of it than one core can do.

It dispatches to balancers as a balancer does to raters, with the same state machine: by credit, with
heartbeats, and again under the same key when one of them is gone.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Sequence
from typing import Any

import click

from balancer import front, front_options
from balancer.peers import BalancerPeers
from balancer.router import Router
from common.addresses import Address
from common.commands.curve_options import curve_options, dealer_keys
from common.dealer import DealerKeys
from common.logs import setup
from common.security.curve import PublicKey, Role, SecretKey
from common.settings.options import balancers_option, metrics_option


@click.command()
@balancers_option(
    "Ask this balancer, at its router port; repeat for each balancer.", default=("127.0.0.1:2000",)
)
@curve_options(Role.CLIENT, "RATEL_GATEWAY_CURVE_KEY")
@metrics_option("gateway", "RATEL_GATEWAY_METRICS")
@front_options.options
def gateway(
    balancers: tuple[Address, ...],
    curve_key: SecretKey | None,
    curve_server_keys: tuple[PublicKey, ...],
    log_level: str,
    **options: Any,
) -> None:
    """Run a gateway: JSON-RPC over TCP and HTTP in front, balancers behind.

    Where one core is not enough for the front, run several, on one host with --reuse-port, so that they share
    the ports; and balancers with `--jsonrpc none --http none`. SIGTERM lets it answer what is in flight, then
    ends it.

    \b
    Examples:
      ratel gateway --reuse-port
      ratel gateway --balancer 10.0.0.1:2000 --balancer 10.0.0.2:2000
    """
    setup(log_level)
    settings = front_options.settings_of(**options)
    keys = dealer_keys(curve_key, curve_server_keys, len(balancers))
    front.run("gateway", lambda: serve(settings, balancers, keys))


async def serve(
    settings: front_options.FrontSettings, balancers: tuple[Address, ...], keys: Sequence[DealerKeys | None]
) -> None:
    """Runs until SIGTERM or SIGINT. Raises CannotListen."""
    handed = front.handed_over("jsonrpc", "http", "metrics")
    life = secrets.token_hex(8)
    router = Router(settings.dispatch, BalancerPeers(balancers, life, keys), life)
    with contextlib.closing(router):
        await front.serve(settings, router, None, f"balancers={','.join(map(str, balancers))}", handed)
