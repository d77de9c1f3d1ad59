"""Every command that README, tutorial and guides show is run, and prints what stands there."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import click
import pytest

from common.cli import main
from tests.docs.blocks import RUN, blocks, steps
from tests.docs.pages import DOCS, PAGES, ROOT, is_missing, run
from tests.docs.terminal import Terminal
from tests.reference_doc import commands, context_of

PRINTED = DOCS / "commands-printed.md"

ELSEWHERE = {
    "api.md": "tests/e2e/test_zeromq_doc.py",
    "configuration.md": "tests/unit/test_configuration_doc.py",
    "deploy.md": "tests/systemd/test_page.py",
    "exactly-once.md": "tests/e2e/test_exactly_once_doc.py",
    "examples/README.md": "tests/e2e/test_examples.py",
    "performance.md": "tests/e2e/test_locust.py",
    "rating.md": "tests/e2e/test_set_terms.py",
    "security.md": "tests/e2e/test_isolation.py",
}
"""Pages beside the guides, and what runs what they show."""


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
@pytest.mark.source
@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_page_shows_what_its_commands_print(page: Path) -> None:
    with Terminal() as terminal:
        ran = run(page, terminal)
    assert ran
    wrong = [
        f"{name(page)}, the block of line {one.block.line}: $ {one.step.command}\n{difference}"
        for one in ran
        if (difference := one.difference()) is not None
    ]
    assert not wrong, "\n".join(wrong) + f"\n`make docs-outputs PAGE={name(page)}` writes it anew"
    if missing := sorted({str(block.needs) for block in blocks(page) if is_missing(block)}):
        pytest.skip(f"{', '.join(missing)} is not here; all else prints what {name(page)} shows")


def test_every_command_of_ratel_is_shown_with_what_it_prints() -> None:
    """Each subcommand is typed on the page by itself, by its whole name; so is what it prints, or a file."""
    typed = [
        step.command for block in blocks(PRINTED) if block.language == "console" for step in steps(block)
    ]
    forgotten = [
        context.command_path
        for command, context in commands(main, context_of(main, "ratel"))
        if not isinstance(command, click.Group)
        and not any(re.search(rf"(?:^|[ (]){context.command_path}(?![\w-])", line) for line in typed)
    ]
    assert not forgotten, f"add them to {name(PRINTED)}"


def test_what_was_redirected_is_read_without_a_complaint_when_it_is_not_there_yet() -> None:
    for page in PAGES:
        waits = re.findall(r"until grep (.*?);", page.read_text())
        assert all(re.match(r"-\w*s", wait) for wait in waits), name(page)


def test_what_is_not_run_says_why() -> None:
    for page in PAGES:
        for block in blocks(page):
            if block.not_run is not None:
                print(f"{name(page)}:{block.line}: not run: {block.not_run}")
                assert len(block.not_run) > 10


def test_no_other_page_shows_commands_that_nothing_runs() -> None:
    held = {DOCS / page for page in ELSEWHERE}
    for page in sorted(DOCS.rglob("*.md")):
        if page in PAGES or page in held:
            continue
        shown = [block.line for block in blocks(page) if block.language in RUN]
        assert not shown, f"{name(page)}, lines {shown}: neither a guide nor held by another test"
    assert all((ROOT / test).is_file() for test in ELSEWHERE.values())
