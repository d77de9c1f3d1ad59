"""`ratel completion`: the script with which a shell completes commands and options."""

from __future__ import annotations

from typing import Final

import click
from click.shell_completion import get_completion_class

SHELLS: Final = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script for SHELL.

    \b
    Examples:
      ratel completion bash > /etc/bash_completion.d/ratel
      ratel completion zsh > "${fpath[1]}/_ratel"
      ratel completion fish > ~/.config/fish/completions/ratel.fish
    """
    maker = get_completion_class(shell)
    assert maker is not None
    root = ctx.find_root()
    click.echo(maker(root.command, {}, "ratel", "_RATEL_COMPLETE").source())
