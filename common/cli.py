"""The one console command, `ratel`: every subcommand, loaded when it is asked for.

The table names the modules as text, so that `ratel call` does not pay for the raters' imports,
and so that `common` imports neither `balancer` nor `rater`.
"""

from __future__ import annotations

import difflib
import gc
import importlib
import sys
from types import ModuleType
from typing import Any, Final

import click

from common.compiled import is_compiled
from common.settings import config

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "up": (
        "common.commands.up_command:up",
        "Run a whole cluster on this machine: store, balancer and raters.",
    ),
    "balancer": ("balancer.command:balancer", "Run a balancer: the JSON-RPC and HTTP gateways."),
    "gateway": ("balancer.gateway_command:gateway", "Run a gateway: the front as a process of its own."),
    "rater": ("rater.command:rater", "Run a rater: joins balancers and does their work."),
    "roll": (
        "common.commands.roll_command:roll",
        "Restart this host's services, one after the other, under load.",
    ),
    "load": ("rater.loader.command:load", "Load tariff files as a new version, and open accounts."),
    "tariff": ("rater.tariffs.commands:tariff", "List, compare and switch the versions of tariffs."),
    "account": (
        "rater.accounts.commands:account",
        "Look at one account, open, credit, set or block it.",
    ),
    "explain": ("common.commands.explain_command:explain", "Say why a call costs what it costs."),
    "rate": ("rater.bulk.command:rate", "Rate a file of call records."),
    "audit": ("rater.journal.commands:audit", "Check every account against its journal."),
    "journal": ("rater.journal.commands:journal", "Archive the accounts' journals into files."),
    "apikey": ("common.commands.apikey_command:apikey", "Make, list and revoke API keys, and limit tenants."),
    "acl": ("rater.store.acl_command:acl", "Print the users of a store of your own, and what each may run."),
    "keys": (
        "common.commands.keys_command:keys",
        "Make, list, allow and revoke the keys of ZeroMQ connections.",
    ),
    "call": ("common.commands.call_command:call", "Make one call of the API and show the answer."),
    "status": (
        "common.commands.status_command:status",
        "Show how a balancer, its raters and their store do.",
    ),
    "top": ("common.commands.status_command:top", "Watch that live."),
    "config": ("common.commands.config_command:config", "Check and show the settings of all commands."),
    "completion": (
        "common.commands.completion_command:completion",
        "Print what a shell needs to complete commands.",
    ),
}
"""Name → (module:attribute, one line for the list of commands)."""


def _import(name: str) -> ModuleType:
    """The module, with everything that came with it out of the garbage collector's sight.

    None of it is ever garbage: to look through it again and again, while it is imported and as the process
    ends, is a quarter of the time that a short command takes.
    """
    if name in sys.modules:
        return sys.modules[name]
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


class LazyGroup(click.Group):
    """Imports a command's module only when that command is used, and has it take settings from the file."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """A name that there is not is answered with the one that was probably meant."""
        if args and args[0] not in COMMANDS and not ctx.resilient_parsing:
            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            question = f" Did you mean {close[0]!r}?" if close else f" There are {', '.join(COMMANDS)}."
            ctx.fail(f"No such command {args[0]!r}.{question}")
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(_import(module), attribute)
        assert isinstance(command, click.Command)
        if cmd_name != "config":
            config.read_by(command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        with config.environment_errors():
            return super().invoke(ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ratel", message="%(prog)s %(version)s" + ", compiled" * is_compiled())
@config.root_file_option
def main() -> None:
    """Ratel: a rating and charging cluster for voice carriers and MVNOs.

    Start with `ratel up --load PATH`; `ratel COMMAND --help` explains each command.
    """


if __name__ == "__main__":
    sys.exit(main(prog_name="ratel"))
