"""Writes docs/commands.md and docs/keys.md from the code itself: `python -m tests.reference_doc`.

`make settings` runs it. The help is what click prints, at a fixed width, so that the page is the same
wherever it is made.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Final

import click

from common.cli import main
from rater.accounts import value as account_value
from rater.store import keys

DOCS: Final = Path(__file__).resolve().parents[1] / "docs"
WIDTH: Final = 92

HEAD: Final = """\
# Commands

Every command of `ratel`, with its own `--help`. What is marked with an environment variable is a setting, and
may stand in the [configuration file](configuration.md) too. `ratel completion` makes a shell
complete all of it. [Every command, and what it prints](commands-printed.md) shows them in use.

<!-- `make settings` writes this page from the commands -->

## Exit codes

| code | meaning |
| --- | --- |
| 0 | done |
| 1 | done in part, refused, or a difference was found: the message says which |
| 2 | the command line or a setting is wrong; nothing was done |
| 3 | the store, or the cluster that was asked, is not available or could not do it: try again |

{listed}
"""

_EXIT_CODES: Final = re.compile(r"^ *Exit codes[^\n]*:\n((?: +[^\n]+\n)+)", re.MULTILINE)


def commands(command: click.Command, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    command._help_option = None  # click keeps that of the first context it saw, a test's perhaps
    yield command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            if not child.hidden:
                yield from commands(child, context_of(child, name, context))


def context_of(command: click.Command, name: str, parent: click.Context | None = None) -> click.Context:
    return click.Context(
        command,
        parent=parent,
        info_name=name,
        terminal_width=WIDTH,
        max_content_width=WIDTH,
        help_option_names=["-h", "--help"],
    )


def commands_page() -> str:
    found = list(commands(main, context_of(main, "ratel")))
    own = [
        context.command_path
        for command, context in found
        if _EXIT_CODES.search(command.get_help(context) + "\n")
    ]
    listed = (
        "These say more of theirs below: " + ", ".join(f"[`{path}`](#{anchor(path)})" for path in own) + "."
    )
    parts = [HEAD.format(listed=listed)]
    for command, context in found:
        path = context.command_path
        level = "##" if path.count(" ") < 2 else "###"
        parts.append(f"{level} {path}\n\n```text\n{command.get_help(context).rstrip()}\n```\n")
    return "\n".join(parts)


def anchor(path: str) -> str:
    return path.replace(" ", "-")


KEYS_HEAD: Final = """\
# Keys in the store

All keys begin with `ratel:`, so several programs can share a store, and a user of the store can be
[held to them](security.md#the-store). They are Ratel's own: programs ask by [the API](api.md), people by
[`ratel account`](commands.md#ratel-account) and [`ratel tariff`](commands.md#ratel-tariff).

<!-- `make settings` writes this page from rater/store/keys.py and rater/accounts/value.py -->
"""


def keys_page() -> str:
    _, _, about_keys = docstring(keys).partition("\n\n")
    return f"{KEYS_HEAD}\n{about_keys}\n\n## The account\n\n{docstring(account_value)}\n"


def docstring(module: ModuleType) -> str:
    """As Markdown: angle brackets outside of code would be HTML."""
    assert module.__doc__ is not None
    parts = inspect.cleandoc(module.__doc__).split("`")
    return "`".join(part if number % 2 else part.replace("<", "&lt;") for number, part in enumerate(parts))


PAGES: Final[dict[Path, Callable[[], str]]] = {
    DOCS / "commands.md": commands_page,
    DOCS / "keys.md": keys_page,
}

if __name__ == "__main__":
    for path, page in PAGES.items():
        path.write_text(page())
