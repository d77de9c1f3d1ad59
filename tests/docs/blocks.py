"""What a page in Markdown shows to be typed or run: its fenced blocks, in their order.

    ```console                 `$ ` begins a command, `> ` goes on with it, the rest is what it prints;
    ```                        `…` stands for what varies within a line, as a whole line for any lines
    ```sh                      commands without what they print
    ```python                  a program; `print(…)  # text` says what it prints
    ```json title="my/file"    a file that the reader writes

A comment before a block keeps it from being run, `<!-- not run: why -->`, or says that its first command
does not end, `<!-- keeps running -->`: that is typed in a terminal of its own, which stays open; or names a
program without which it is left out, `<!-- needs promtool -->`, since not every machine has it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

RUN: Final = ("console", "sh", "python")
ANY_LINES: Final = "…"
_FENCE: Final = re.compile(
    r"^(?P<indent> *)```(?P<language>[\w-]+)?(?P<more>[^\n`]*)\n(?P<body>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_COMMENT: Final = re.compile(
    r"<!-- (?:not run: (?P<reason>[^>]+)|(?P<runs>keeps running)|needs (?P<needs>[\w-]+)) -->\n\n?$"
)
_TITLE: Final = re.compile(r'title="([^"]+)"')


class Block(NamedTuple):
    line: int
    language: str
    body: str
    file: str | None
    not_run: str | None
    keeps_running: bool
    needs: str | None


class Step(NamedTuple):
    command: str
    printed: tuple[str, ...]


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    found = []
    for match in _FENCE.finditer(text):
        indent = len(match["indent"])
        body = "".join(line[indent:] if line.strip() else line for line in match["body"].splitlines(True))
        title = _TITLE.search(match["more"])
        comment = _COMMENT.search(text, 0, match.start())
        found.append(
            Block(
                text.count("\n", 0, match.start()) + 1,
                match["language"] or "",
                body,
                title[1] if title else None,
                comment["reason"] if comment else None,
                comment is not None and comment["runs"] is not None,
                comment["needs"] if comment else None,
            )
        )
    return found


def steps(block: Block) -> list[Step]:
    """The commands of a `console` block, each with the lines that it is shown to print."""
    commands: list[str] = []
    printed: list[list[str]] = []
    for line in block.body.splitlines():
        if line.startswith("$ "):
            commands.append(line[2:])
            printed.append([])
        elif line.startswith("> ") and commands and not printed[-1]:
            commands[-1] += "\n" + line[2:]
        elif not commands:
            raise ValueError(f"line {block.line}: a console block begins with `$ `, not with {line!r}")
        else:
            printed[-1].append(line)
    return [Step(command, tuple(lines)) for command, lines in zip(commands, printed, strict=True)]


def printed_by(program: str) -> tuple[str, ...]:
    """What the comments behind `print(…)` say."""
    return tuple(re.findall(r"^\s*print\(.*\)  # (.*)$", program, re.MULTILINE))


def compact(text: str) -> str:
    """Without empty lines: a progress bar that is taken away may leave one."""
    return "".join(line for line in text.splitlines(True) if line.strip())


def pattern(lines: tuple[str, ...]) -> str:
    """A regular expression for what is printed, `compact`."""
    parts = []
    for line in filter(None, map(str.rstrip, lines)):
        if line.strip() == ANY_LINES:
            parts.append(r"(?:[^\n]*\n)*?")
        else:
            parts.append(r"[^\n]*?".join(map(re.escape, line.rstrip().split(ANY_LINES))) + r"\n")
    return "".join(parts)
