"""How commands end, and what they show on the way: alike in all of them.

Exit codes: 0 done, 1 refused or found wrong, 2 the command line is wrong (click's own), 3 the store, or the
cluster, is not available or could not do it. Which of an error's is 1 and which 3 is `code_of`'s to say, for
commands that call the API and for those that work on the store. Whatever ends a command is one line,
`error: …`, on the standard error. Nothing of the store is imported: commands that call the API don't need it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

import click

from common.errors import CallerError, Damaged, RatelError, TariffUnreadable

EXIT_REFUSED: Final = 1
EXIT_UNAVAILABLE: Final = 3

ShowProgress = Callable[[int, int | None], None]
"""How much is done, and of how much, where that is known."""


def refuse(text: str, code: int = EXIT_REFUSED) -> NoReturn:
    """End the command."""
    click.echo(f"error: {text}", err=True)
    sys.exit(code)


_STAYS: Final = (CallerError, Damaged, TariffUnreadable)
"""Nothing was changed, and the same again would end the same: somebody has to look at it."""


def code_of(error: RatelError) -> int:
    """3 wherever it may help to try again, be it to learn what became of a change."""
    return EXIT_REFUSED if isinstance(error, _STAYS) else EXIT_UNAVAILABLE


@contextmanager
def progress_bar(what: str) -> Iterator[ShowProgress]:
    """A bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console  # noqa: PLC0415 - not needed in a pipe
    from rich.progress import Progress  # noqa: PLC0415

    # What is told meanwhile goes past the bar, but stays on the standard output when that is a file.
    with Progress(console=Console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty()) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
