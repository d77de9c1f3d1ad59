"""The options that balancers and gateways have in common, and the settings that are made of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from balancer.client_limits import MAX_CONNECTIONS, MAX_IN_FLIGHT, MAX_UNSENT_MIB, ClientLimits
from balancer.dispatch import DispatchSettings
from balancer.http.patience import KEEP_ALIVE_S, READ_TIMEOUT_S
from balancer.http.reader import MAX_BODY_BYTES
from common.addresses import Address
from common.settings.options import (
    allow_insecure_option,
    api_keys_option,
    http_option,
    jsonrpc_option,
    log_level_option,
)
from common.settings.shared import shared
from common.tls import ServerTls


@dataclass(frozen=True, slots=True)
class FrontSettings:
    jsonrpc: Address | None
    http: Address | None
    """None: not at all."""
    reuse_port: bool
    """Other processes listen on the same ports; the kernel shares the connections out."""
    dispatch: DispatchSettings
    stuck_s: float
    clients: ClientLimits
    api_keys: Path | None
    """The file of keys; None: everybody may do everything."""
    allow_insecure: bool
    """Even where others than this host can connect."""
    lame_duck_s: float = 0.0
    tls: ServerTls | None = None
    """On both ports; None: plain text."""
    metrics: Address | None = None
    """For Prometheus, on a port of its own."""


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
        "--tls-cert",
        type=click.Path(path_type=Path),
        envvar="RATEL_TLS_CERT",
        help="Speak TLS on both ports, with the certificates in this PEM file, the server's own first. It is "
        "read again when it changes on the disk.  [default: plain text]",
    ),
    shared(
        "front",
        "--tls-key",
        type=click.Path(path_type=Path),
        envvar="RATEL_TLS_KEY",
        help="Its private key, a PEM file without a passphrase.",
    ),
    shared(
        "front",
        "--tls-client-ca",
        type=click.Path(path_type=Path),
        envvar="RATEL_TLS_CLIENT_CA",
        help="Let in only clients with a certificate signed by a CA in this PEM file.  [default: any client]",
    ),
    shared(
        "front",
        "--tls-client-cert",
        type=click.Choice(["required", "optional"]),
        default="required",
        envvar="RATEL_TLS_CLIENT_CERT",
        help="Whether --tls-client-ca keeps out clients without a certificate, too.",
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
    shared(
        "front",
        "--lame-duck",
        "lame_duck_s",
        type=click.FloatRange(0, 3600),
        default=0.0,
        envvar="RATEL_LAME_DUCK",
        help="Seconds that it goes on accepting connections after SIGTERM while /readyz says that it ends: "
        "as long as a load balancer in front takes to notice.",
    ),
    shared(
        "front",
        "--max-connections",
        type=click.IntRange(1, 1_000_000),
        default=MAX_CONNECTIONS,
        envvar="RATEL_MAX_CONNECTIONS",
        help="Connections of JSON-RPC, and as many of HTTP; one more is refused.",
    ),
    shared(
        "front",
        "--max-in-flight",
        type=click.IntRange(1, 1_000_000),
        default=MAX_IN_FLIGHT,
        envvar="RATEL_MAX_IN_FLIGHT",
        help="Unanswered calls of one JSON-RPC connection; beyond it, it is not read.",
    ),
    shared(
        "front",
        "--max-message",
        "max_message_bytes",
        type=click.IntRange(1024, MAX_BODY_BYTES),
        default=MAX_BODY_BYTES,
        envvar="RATEL_MAX_MESSAGE",
        help="Bytes of a JSON-RPC message and of an HTTP body.",
    ),
    shared(
        "front",
        "--max-unsent",
        "max_unsent_mib",
        type=click.IntRange(1, 1_048_576),
        default=MAX_UNSENT_MIB,
        envvar="RATEL_MAX_UNSENT",
        help="MiB of answers that all clients of a gateway together leave unread; beyond it those that leave "
        "most are closed.",
    ),
    shared(
        "front",
        "--read-timeout",
        "read_timeout_s",
        type=click.IntRange(1, 3600),
        default=int(READ_TIMEOUT_S),
        envvar="RATEL_READ_TIMEOUT",
        help="Seconds for the head of an HTTP request to arrive, as many for its body, and as many for a "
        "JSON-RPC client to say its API key.",
    ),
    shared(
        "front",
        "--keep-alive",
        "keep_alive_s",
        type=click.IntRange(1, 86_400),
        default=int(KEEP_ALIVE_S),
        envvar="RATEL_KEEP_ALIVE",
        help="Seconds that an HTTP connection is kept open for its next request.",
    ),
    api_keys_option(),
    allow_insecure_option,
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
    lame_duck_s: float,
    max_connections: int,
    max_in_flight: int,
    max_message_bytes: int,
    max_unsent_mib: int,
    read_timeout_s: int,
    keep_alive_s: int,
    api_keys: Path | None,
    allow_insecure: bool,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
    tls_client_cert: str,
    metrics: Address | None,
) -> FrontSettings:
    dispatch = DispatchSettings(
        deadline_us=deadline_ms * 1000, max_queued=max_queued, max_wait_us=max_wait_ms * 1000
    )
    clients = ClientLimits(
        max_connections,
        max_in_flight,
        max_message_bytes,
        read_timeout_s,
        keep_alive_s,
        max_unsent_mib * 2**20,
    )
    tls = None
    if tls_cert is not None and tls_key is not None:
        tls = ServerTls(tls_cert, tls_key, tls_client_ca, tls_client_cert == "required")
    elif tls_cert is not None:
        raise click.UsageError("--tls-cert needs --tls-key")
    elif tls_key is not None or tls_client_ca is not None:
        raise click.UsageError(f"{'--tls-key' if tls_key else '--tls-client-ca'} needs --tls-cert")
    return FrontSettings(
        jsonrpc,
        http_,
        reuse_port,
        dispatch,
        stuck_s,
        clients,
        api_keys,
        allow_insecure,
        lame_duck_s,
        tls,
        metrics,
    )
