"""What a setting is, and one that several commands have: its place in the configuration file.

An option is a setting when it has an environment variable; those without one say what a single run does
(`--dry-run`, `--json`). A setting of one command stands in that command's table of the configuration file,
under the option's name. A `Shared` one has a place there for all commands that have it, `[section] key`,
which each command's own table may override. `common.settings.options` declares them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import click

Command = Callable[..., None]
Decorator = Callable[[Command], Command]


class Section(NamedTuple):
    about: str
    keys: tuple[str, ...]


SECTIONS: Final = {
    "store": Section(
        "The store that raters and tools work on.",
        ("url", "data", "password-file", "sentinel-password-file"),
    ),
    "durability": Section("When a change is safe.", ("level", "replicas", "timeout")),
    "cluster": Section(
        "What the parts have to agree on.", ("balancers", "curve-server-keys", "keys", "key-ttl", "wait")
    ),
    "front": Section(
        "What balancers and gateways do for clients.",
        (
            *(
                "jsonrpc",
                "http",
                "router",
                "insecure-router",
                "reuse-port",
                "deadline",
                "max-queued",
                "max-wait",
            ),
            *("stuck", "lame-duck"),
            *("max-connections", "max-in-flight", "max-message", "max-unsent"),
            *("read-timeout", "keep-alive"),
            *("api-keys", "allow-insecure"),
            *("tls-cert", "tls-key", "tls-client-ca", "tls-client-cert"),
        ),
    ),
    "client": Section(
        "Whom the commands that call the API ask.",
        (
            *("address", "url", "timeout", "api-key-file"),
            *("tls", "tls-ca", "tls-cert", "tls-key", "tls-server-name"),
        ),
    ),
    "log": Section("What is written to stderr.", ("level", "format")),
}
"""The shared tables of the configuration file. They are listed, so that a command knows which names are right
without importing the other commands."""


class Shared(click.Option):
    """An option that several commands have. In the configuration file it is `key` of the table `section`."""

    def __init__(self, *args: Any, section: str, key: str = "", **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.section = section
        self.key = key or flag(self)
        if self.key not in SECTIONS[section].keys:
            raise TypeError(f"{self.key} is not among the keys of {section} in SECTIONS")


def flag(option: click.Option) -> str:
    """An option's long name without dashes in front: its key in a table of its command."""
    return max(option.opts, key=len).removeprefix("--")


def is_setting(parameter: click.Parameter) -> bool:
    return isinstance(parameter, click.Option) and bool(parameter.envvar)


def shared(section: str, *names: str, key: str = "", **attributes: Any) -> Decorator:
    return click.option(
        *names,
        cls=Shared,
        section=section,
        key=key,
        **{"show_default": "default" in attributes, "show_envvar": True, **attributes},
    )


def all_of(*options: Decorator) -> Decorator:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate
