"""Every command that README, tutorial and guides show is run, and prints what stands there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.docs.blocks import RUN, blocks
from tests.docs.pages import DOCS, PAGES, ROOT, run
from tests.docs.terminal import Terminal

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
NOT_RUN = {
    "monitoring.md": "a Prometheus and a Grafana",
    "status-page.md": "a browser",
}


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
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


def test_what_is_not_run_says_why() -> None:
    for page in PAGES:
        for block in blocks(page):
            if block.not_run is not None:
                print(f"{name(page)}:{block.line}: not run: {block.not_run}")
                assert len(block.not_run) > 10


def test_no_other_page_shows_commands_that_nothing_runs() -> None:
    held = {DOCS / page for page in ELSEWHERE | NOT_RUN}
    for page in sorted(DOCS.rglob("*.md")):
        if page in PAGES or page in held:
            continue
        shown = [block.line for block in blocks(page) if block.language in RUN]
        assert not shown, f"{name(page)}, lines {shown}: neither a guide nor held by another test"
    assert all((ROOT / test).is_file() for test in ELSEWHERE.values())
