"""Runs a page: its files are written and its commands typed, in order, and what they print is compared."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Final, NamedTuple

from tests.docs.blocks import RUN, Block, Step, blocks, compact, pattern, printed_by, steps
from tests.docs.terminal import ROOT, Terminal

DOCS: Final = ROOT / "docs"
PAGES: Final = (
    ROOT / "README.md",
    *(DOCS / page for page in ("commands-printed.md", "monitoring.md", "status-page.md", "tutorial.md")),
    *sorted((DOCS / "how-to").glob("*.md")),
)


class Ran(NamedTuple):
    block: Block
    step: Step
    output: str
    code: int

    def difference(self) -> str | None:
        """What differs from the page: the output, or, where none is to be compared, the exit code."""
        if self.block.language == "sh":
            return f"exit code {self.code}: {self.output}" if self.code else None
        if re.fullmatch(pattern(self.step.printed), compact(self.output)):
            return None
        shown = "".join(f"{line}\n" for line in self.step.printed)
        return f"the page shows\n{shown}and what is printed is\n{self.output}"


def is_missing(block: Block) -> bool:
    """Whether there is no such program here as it needs."""
    return block.needs is not None and shutil.which(block.needs) is None


def commands(block: Block, number: int) -> list[Step]:
    if block.language == "console":
        return steps(block)
    if block.language == "sh":
        return [Step(block.body, ())]
    return [Step(f"python program-{number}.py", printed_by(block.body))]


def run(page: Path, terminal: Terminal) -> list[Ran]:
    ran = []
    for number, block in enumerate(blocks(page)):
        if block.not_run is not None or is_missing(block):
            continue
        if block.file is not None:
            terminal.write(block.file, block.body)
        elif block.language in RUN:
            if block.language == "python":
                terminal.write(f"program-{number}.py", block.body)
            first, *rest = commands(block, number)
            if block.keeps_running:
                ran.append(Ran(block, first, terminal.start(first.command, pattern(first.printed)), 0))
            else:
                rest.insert(0, first)
            ran += [Ran(block, step, *terminal.type(step.command)) for step in rest]
    return ran
