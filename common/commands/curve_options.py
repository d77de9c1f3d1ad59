"""The options of commands that connect to balancers with a key: `ratel rater`, `ratel gateway`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from common.dealer import DealerKeys
from common.security.curve import KeyFileError, PublicKey, Role, SecretKey, read_public, read_secret
from common.settings.shared import shared

if TYPE_CHECKING:
    _ParamType = click.ParamType[PublicKey]
else:
    _ParamType = click.ParamType  # generic in new releases only


class KeyFile(_ParamType):
    """The type of an option that names a key file: it is read, and must hold a key of this role."""

    name = "file"

    def __init__(self, role: Role, *, secret: bool) -> None:
        self._role = role
        self._secret = secret

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> PublicKey:
        if isinstance(value, PublicKey):
            return value
        try:
            return (read_secret if self._secret else read_public)(Path(str(value)), self._role)
        except KeyFileError as error:
            self.fail(str(error), param, ctx)


def curve_options(role: Role, variable: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """`--curve-key` and `--curve-server-key`; `dealer_keys` makes of them what sockets want."""

    def add(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed((_own_key(role, variable), _SERVER_KEYS)):
            command = option(command)
        return command

    return add


def _own_key(role: Role, variable: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(
        "--curve-key",
        type=KeyFile(role, secret=True),
        envvar=variable,
        show_envvar=True,
        help=f"File with this process's secret key, of the role {role}, see `ratel keys`: prove it to the "
        "balancers, and speak encrypted.  [default: neither]",
    )


_SERVER_KEYS: Final = shared(
    "cluster",
    "--curve-server-key",
    "curve_server_keys",
    key="curve-server-keys",
    type=KeyFile(Role.BALANCER, secret=False),
    multiple=True,
    envvar="RATEL_CURVE_SERVER_KEYS",
    help="File with the balancers' public key: who can't prove it is none. Once for all of them, or once for "
    "each --balancer, in the same order.",
)


def dealer_keys(
    own: SecretKey | None, servers: Sequence[PublicKey], balancers: int
) -> list[DealerKeys | None]:
    """For each balancer. Raises click.UsageError."""
    if own is None and not servers:
        return [None] * balancers
    if own is None or not servers:
        raise click.UsageError("--curve-key and --curve-server-key go together")
    if len(servers) not in (1, balancers):
        raise click.UsageError(
            f"{len(servers)} times --curve-server-key for {balancers} times --balancer: "
            "expected one for all of them, or one for each"
        )
    each = servers if len(servers) == balancers else [servers[0]] * balancers
    return [DealerKeys(own, server.public) for server in each]
