"""Writes what commands print into the pages that show them: `python -m tests.docs docs/tutorial.md …`.

Only what differs is replaced, so what stands there with `…` stays. Read the difference before you keep it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.docs.pages import Ran, run
from tests.docs.terminal import Terminal


def with_outputs(page: str, ran: list[Ran]) -> str:
    position = 0
    for one in ran:
        if one.block.language != "console":
            continue
        typed = "$ " + one.step.command.replace("\n", "\n> ") + "\n"
        shown = typed + "".join(f"{line}\n" for line in one.step.printed)
        position = page.index(shown, position)
        new = typed + one.output if one.difference() else shown
        page = page[:position] + new + page[position + len(shown) :]
        position += len(new)
    return page


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        with Terminal() as terminal:
            results = run(path, terminal)
        path.write_text(with_outputs(path.read_text(), results))
