"""The documents say what the code does, where a table can be compared."""

from __future__ import annotations

import re
from pathlib import Path

from common.cli import COMMANDS
from common.errors import BY_CODE, RatelError, _classes
from common.methods import METHODS

ROOT = Path(__file__).resolve().parents[2]


def test_every_error_has_a_code_of_its_own() -> None:
    classes = [cls for cls in _classes(RatelError) if "code" in vars(cls) and cls is not RatelError]
    assert len({cls.code for cls in classes}) == len(classes)
    assert len({cls.name for cls in classes}) == len(classes)


def test_the_table_of_errors_is_complete_and_true() -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    rows = re.findall(r"^\| (-\d+) \| `(\w+)` \| (\d+) \|", text, re.MULTILINE)
    documented = {(int(code), name, int(status)) for code, name, status in rows}
    assert documented == {(cls.code, cls.name, cls.http_status) for cls in BY_CODE.values()}


def test_the_table_of_methods_is_complete() -> None:
    text = (ROOT / "docs" / "rating.md").read_text()
    section = text.partition("## The methods")[2].partition("\n## ")[0]
    assert re.findall(r"^\| (\w+) \|", section, re.MULTILINE)[1:] == [method.name for method in METHODS]


def test_the_readme_names_every_command() -> None:
    line = next(line for line in (ROOT / "README.md").read_text().splitlines() if "`ratel --help`" in line)
    assert re.findall(r"`(\w+)`", line) == list(COMMANDS)


def test_modules_that_the_architecture_names_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    named = re.findall(r"`((?:common|balancer|rater|tests)/[\w/*.]+)`", text)
    assert named
    missing = [name for name in named if not list(ROOT.glob(name))]
    assert not missing
