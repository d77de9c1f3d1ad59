"""The command-line options that several commands have, each declared once: see `common.settings.shared`.

Only what is needed to declare options is imported: every command pays for it at its start.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from common.addresses import AddressType
from common.logs import FORMATS, LEVELS, choose_format
from common.settings.config_file import ConfigError
from common.settings.shared import Command, Decorator, all_of, shared
from common.storage.durability import DEFAULT_REPLICAS, DEFAULT_TIMEOUT_MS, MAX_TIMEOUT_MS, Durability, Level
from common.storage.durability import LEVELS as DURABILITY_LEVELS

if TYPE_CHECKING:
    _TextType = click.ParamType[str]
else:
    _TextType = click.ParamType  # generic in new releases only

# --- [store] --------------------------------------------------------------------------------------------


class StoreUrl(_TextType):
    """The URL of a store, looked at without connecting."""

    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from common.storage.store_url import StoreUrlError  # noqa: PLC0415 - only where a URL is given
        from common.storage.stores import connect  # noqa: PLC0415

        try:
            connect(str(value)).close()
        except StoreUrlError as error:
            self.fail(str(error), param, ctx)
        return str(value)


def _secret_file(*names: str, key: str, envvar: str, help: str) -> Decorator:
    kind = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)
    return shared("store", *names, key=key, envvar=envvar, type=kind, help=help)


def store_parts(*, url_help: str, data_help: str) -> Decorator:
    """The parts that make a store's URL, each as an argument of its own, for a command that hands them on."""
    return all_of(
        shared(
            "store", "--store", "store_url", key="url", type=StoreUrl(), envvar="RATEL_STORE", help=url_help
        ),
        shared(
            "store",
            "--data",
            type=click.Path(file_okay=False, path_type=Path),
            envvar="RATEL_DATA",
            help=data_help + "  [default: the user's data folder]",
        ),
        _secret_file(
            "--store-password-file",
            key="password-file",
            envvar="RATEL_STORE_PASSWORD_FILE",
            help="Take the store's password from this file, which holds one line; the URL has the user.",
        ),
        _secret_file(
            "--sentinel-password-file",
            key="sentinel-password-file",
            envvar="RATEL_SENTINEL_PASSWORD_FILE",
            help="And that of the sentinels themselves, where they have one.",
        ),
    )


_store_parts: Final = store_parts(
    url_help="The store: redis://, rediss://, unix://, redis+sentinel://, redis+cluster:// or embedded:DIR.  "
    "[default: the store of `ratel up`]",
    data_help="Without --store: the folder of `ratel up`, to use the store that runs there.",
)


def store_option(command: Command) -> Command:
    """The store, as the argument `store_url`: complete, with the password in it."""

    @functools.wraps(command)
    def with_url(
        *args: Any,
        store_url: str | None,
        data: Path | None,
        store_password_file: Path | None,
        sentinel_password_file: Path | None,
        **others: Any,
    ) -> None:
        from common.storage.store_url import default_store_url  # noqa: PLC0415 - whoever uses a store imports it anyway

        url = store_url or default_store_url(data)
        url = store_with_login(url, store_password_file, sentinel_password_file)
        command(*args, store_url=url, **others)

    return _store_parts(with_url)


def store_with_login(url: str, password_file: Path | None, sentinel_password_file: Path | None) -> str:
    """Raises ConfigError, which names the option whose file or combination is wrong."""
    if password_file is None and sentinel_password_file is None:
        return url
    from common.storage.store_login import LoginError, read_secret, with_login  # noqa: PLC0415

    for name, file, option in (
        ("password", password_file, "--store-password-file"),
        ("sentinel_password", sentinel_password_file, "--sentinel-password-file"),
    ):
        if file is None:
            continue
        try:
            url = with_login(url, **{name: read_secret(file)})
        except LoginError as error:
            raise ConfigError(f"{option}: {error}") from None
    return url


# --- [durability] ---------------------------------------------------------------------------------------


def durability_options(help: str) -> Decorator:
    return all_of(
        shared(
            "durability",
            "--durability",
            key="level",
            type=click.Choice(DURABILITY_LEVELS),
            default=Level.EVERYSEC.value,
            envvar="RATEL_DURABILITY",
            help=help,
        ),
        shared(
            "durability",
            "--replicas",
            type=click.IntRange(1, 100),
            default=DEFAULT_REPLICAS,
            envvar="RATEL_REPLICAS",
            help="How many replicas must confirm a change at a replicated level.",
        ),
    )


durability_timeout_option: Final = shared(
    "durability",
    "--durability-timeout",
    "durability_timeout_ms",
    key="timeout",
    type=click.IntRange(1, MAX_TIMEOUT_MS),
    default=DEFAULT_TIMEOUT_MS,
    envvar="RATEL_DURABILITY_TIMEOUT",
    help="Milliseconds in which they must; else the answer is `not_durable`, and the outcome unknown.",
)


def durable(help: str) -> Decorator:
    """What of a command's own changes must be certain: the raters' settings, as one `Durability`."""

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def call(
            *args: Any, durability: str, replicas: int, durability_timeout_ms: int, **others: Any
        ) -> None:
            certain = Durability(Level(durability), replicas, durability_timeout_ms)
            command(*args, durability=certain, **others)

        return durability_options(help)(durability_timeout_option(call))

    return decorate


# --- [cluster], [front], [log] --------------------------------------------------------------------------


insecure_router_option: Final = shared(
    "front",
    "--insecure-router",
    is_flag=True,
    envvar="RATEL_INSECURE_ROUTER",
    help="Let --router be another address than loopback without keys: whoever can reach it may then do "
    "anything.",
)


def balancers_option(help: str, default: tuple[str, ...] = ()) -> Decorator:
    return shared(
        "cluster",
        "--balancer",
        "balancers",
        key="balancers",
        type=AddressType(),
        multiple=True,
        envvar="RATEL_BALANCERS",
        help=help,
        **({"default": default} if default else {}),
    )


def key_ttl_option(at_least_s: int, at_most_s: int | None, default_s: int, help: str) -> Decorator:
    return shared(
        "cluster",
        "--key-ttl",
        "key_ttl_s",
        type=click.IntRange(at_least_s, at_most_s),
        default=default_s,
        envvar="RATEL_KEY_TTL",
        metavar="SECONDS",
        help=help,
    )


wait_option: Final = shared(
    "cluster",
    "--wait",
    "wait_s",
    type=click.FloatRange(0, 3600),
    default=10.0,
    envvar="RATEL_WAIT",
    metavar="SECONDS",
    help="How long raters may take to pick up the new tariff; 0 does not wait.",
)


def jsonrpc_option(help: str, *, or_none: bool = False) -> Decorator:
    return _listener("--jsonrpc", "jsonrpc", "127.0.0.1:2001", "RATEL_JSONRPC", help, or_none=or_none)


def http_option(help: str, *, or_none: bool = False) -> Decorator:
    return _listener("--http", "http_", "127.0.0.1:8000", "RATEL_HTTP", help, or_none=or_none)


def router_option(help: str) -> Decorator:
    return _listener("--router", "router", "127.0.0.1:2000", "RATEL_ROUTER", help)


def _listener(
    name: str, argument: str, default: str, envvar: str, help: str, *, or_none: bool = False
) -> Decorator:
    kind = AddressType(or_none=or_none)
    return shared("front", name, argument, type=kind, default=default, envvar=envvar, help=help)


def metrics_option(whose: str, envvar: str, help: str = "") -> Decorator:
    return click.option(
        "--metrics",
        type=AddressType(),
        envvar=envvar,
        show_envvar=True,
        help=help or f"Tell Prometheus about this {whose} here, by HTTP at /metrics; port 0 is any free one.",
    )


def api_keys_option(
    help: str = "Let in only who has one of the API keys in this file, see `ratel apikey --help`. It is "
    "read again whenever it has changed.",
    **attributes: Any,
) -> Decorator:
    kind = click.Path(dir_okay=False, path_type=Path)
    return shared("front", "--api-keys", type=kind, envvar="RATEL_API_KEYS", help=help, **attributes)


allow_insecure_option: Final = shared(
    "front",
    "--allow-insecure",
    is_flag=True,
    envvar="RATEL_ALLOW_INSECURE",
    help="Listen on other addresses than this host's own although anybody there may do everything.",
)


def log_level_option(default: str = "info") -> Decorator:
    """How much is logged, as the argument `log_level`; and how, which is told to `common.logs` at once."""
    level = shared(
        "log",
        "--log-level",
        key="level",
        type=click.Choice(LEVELS),
        default=default,
        envvar="RATEL_LOG_LEVEL",
        help="Write what is at least so important to stderr; SIGUSR1 turns debug on and off.",
    )
    format_ = shared(
        "log",
        "--log-format",
        key="format",
        type=click.Choice(FORMATS),
        default=FORMATS[0],
        envvar="RATEL_LOG_FORMAT",
        expose_value=False,
        callback=lambda _ctx, _param, value: choose_format(value),
        help="How a line looks: key=value pairs, or JSON.",
    )
    return all_of(level, format_)


# --- what one run does ----------------------------------------------------------------------------------


def json_option(help: str = "One JSON object, for programs.") -> Decorator:
    return click.option("--json", "as_json", is_flag=True, help=help)
