"""The one console command, `ratel`: every subcommand, loaded when it is asked for.

The table names the modules as text, so that `ratel call` does not pay for the raters' imports,
and so that `common` imports neither `balancer` nor `rater`.
"""

from __future__ import annotations

import importlib
import sys
from typing import Final

import click

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "up": ("common.up_command:up", "Run a whole cluster on this machine: store, balancer and raters."),
    "balancer": ("balancer.command:balancer", "Run a balancer: the JSON-RPC and HTTP gateways."),
    "gateway": ("balancer.gateway_command:gateway", "Run a gateway: the front as a process of its own."),
    "rater": ("rater.command:rater", "Run a rater: joins balancers and does their work."),
    "load": ("rater.loader.command:load", "Load tariff files as a new version, and open accounts."),
    "tariff": ("rater.tariff_commands:tariff", "List, compare and switch the versions of tariffs."),
    "audit": ("rater.journal.commands:audit", "Check every account against its journal."),
    "journal": ("rater.journal.commands:journal", "Archive the accounts' journals into files."),
    "keys": ("common.keys_command:keys", "Make, list, allow and revoke the keys of ZeroMQ connections."),
    "call": ("common.call_command:call", "Make one call of the API and show the answer."),
}
"""Name → (module:attribute, one line for the list of commands)."""


class LazyGroup(click.Group):
    """A group that imports a command's module only when that command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ratel", message="%(prog)s %(version)s")
def main() -> None:
    """Ratel: a rating and charging cluster for voice carriers and MVNOs.

    Start with `ratel up --load PATH`; `ratel COMMAND --help` explains each command.
    """


if __name__ == "__main__":
    sys.exit(main(prog_name="ratel"))
