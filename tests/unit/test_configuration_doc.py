"""docs/configuration.md: what it shows is what is printed, and its table is made of the options."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from common.cli import main
from tests.settings_doc import PAGE, page_with_table

TEXT = PAGE.read_text()
GOOD, WRONG = re.findall(r"^```toml\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
CALLS = [
    (shlex.split(call), output)
    for block in re.findall(r"^```console\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    for call, output in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
]
ANY_LINES = "…\n"


def test_the_page_has_calls() -> None:
    assert len(CALLS) == 7


@pytest.mark.parametrize(("words", "output"), CALLS)
def test_each_call_prints_what_the_page_shows(
    words: list[str], output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in (
        ("ratel.toml", GOOD),
        ("wrong.toml", WRONG),
        ("broken.toml", "[rater]\ncredit = \n"),
    ):
        Path(name).write_text(content)
    Path("store-password").write_text("hush\n")
    begin = words.index("ratel")
    environment = dict(word.split("=") for word in words[:begin])
    result = CliRunner().invoke(main, words[begin + 1 :], env=environment)
    assert result.exit_code in (0, 2)
    pattern = "".join(
        "(?:.*\n)*?" if line == ANY_LINES else re.escape(line) for line in output.splitlines(True)
    )
    assert re.fullmatch(pattern, result.output), result.output


def test_the_table_is_made_of_the_options() -> None:
    assert page_with_table(TEXT) == TEXT, "make settings"
