"""Whatever docs/deploy.md has its reader type is known to what types it, `make test-systemd`."""

from __future__ import annotations

import pytest

from tests.docs.blocks import Block, blocks
from tests.docs.terminal import ROOT
from tests.systemd.page import (
    ELSEWHERE,
    IN_TEXT,
    NOT_TYPED,
    ONE,
    PAGE,
    SOURCES,
    STOOD_IN_FOR,
    THREE,
    File,
    in_text,
    not_typed,
    steps,
    typed,
)


def test_every_block_is_typed_on_a_machine_that_there_is() -> None:
    found = steps()
    assert {step.where for step in found} == {ONE, *THREE, SOURCES}
    assert sum(not isinstance(step, File) for step in found) > 40


def test_what_is_not_typed_is_listed_and_says_why() -> None:
    left = [command for command in not_typed() if not command.startswith(("podman ", "cd "))]
    assert sorted(left) == sorted(NOT_TYPED)
    assert all(len(block.not_run) > 10 for block in blocks(PAGE) if block.not_run is not None)
    stood_in_for = [
        step for step in steps() if not isinstance(step, File) and step.command.startswith(STOOD_IN_FOR)
    ]
    assert all(step.where in THREE and not step.printed for step in stood_in_for)


def test_every_command_in_its_text_is_typed_too_or_run_elsewhere() -> None:
    assert in_text() == IN_TEXT.keys() | ELSEWHERE.keys()
    for command, (file, needle) in ELSEWHERE.items():
        assert needle in (ROOT / file).read_text(), f"{command}: {file} has no {needle!r} any more"


def test_a_block_without_a_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="line 7: a console block begins with a prompt, not with 'ratel up'"):
        typed(Block(7, "console", "ratel up\n", None, None, None, False))
