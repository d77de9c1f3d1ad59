"""Types the tutorial in a fresh clone, with a virtual environment of its own, and records the terminal.

    python -m tests.docs.cast

writes docs/tutorial.cast (asciicast v2, for `asciinema play`) and docs/tutorial-session.md, the same as text.
Durations are true; only ports and the folder are called as on the page. It stops where a command fails or
prints something else.
"""

from __future__ import annotations

import json
import time
from typing import Final

from tests.docs.blocks import blocks, steps
from tests.docs.pages import DOCS, Ran
from tests.docs.terminal import COLUMNS, Terminal

PAGE: Final = DOCS / "tutorial.md"
CAST: Final = DOCS / "tutorial.cast"
SESSION: Final = DOCS / "tutorial-session.md"
SETUP_WITHIN_S: Final = 1800.0
HEAD: Final = """\
# The tutorial, typed

What a terminal showed when everything in [the tutorial](tutorial.md) was typed in a fresh clone, the setup
of its virtual environment included, {minutes:.1f} minutes in all; [tutorial.cast](tutorial.cast) is the
recording for `asciinema play`. `make tutorial-cast` makes both anew.

```text
{session}```
"""


def main() -> None:
    begin = time.monotonic()
    events: list[tuple[float, str]] = []

    def show(text: str) -> None:
        events.append((round(time.monotonic() - begin, 3), text))

    with Terminal(fresh_clone=True) as terminal:
        for block in blocks(PAGE):
            if block.file is not None:
                terminal.write(block.file, block.body)
                show(f"$ cat > {block.file} <<'EOF'\n{block.body}EOF\n")
            elif block.language == "console":
                for step in steps(block):
                    show(f"$ {step.command}\n")
                    ran = Ran(block, step, *terminal.type(step.command, SETUP_WITHIN_S))
                    show(ran.output)
                    # The setup's output is not on the page.
                    if block.not_run is None and (difference := ran.difference()) is not None:
                        raise SystemExit(f"line {block.line}: $ {step.command}\n{difference}")
                    if block.not_run is not None and ran.code != 0:
                        raise SystemExit(f"line {block.line}: $ {step.command}\n{ran.output}")
    header = {
        "version": 2,
        "width": int(COLUMNS),
        "height": 40,
        "title": "Ratel: the tutorial in a fresh clone",
    }
    lines = [json.dumps(header)]
    lines += [
        json.dumps([at, "o", text.replace("\n", "\r\n")], ensure_ascii=False) for at, text in events if text
    ]
    CAST.write_text("\n".join(lines) + "\n")
    session = "".join(text for _, text in events)
    SESSION.write_text(HEAD.format(minutes=(time.monotonic() - begin) / 60, session=session))


if __name__ == "__main__":
    main()
