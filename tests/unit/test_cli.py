"""The one command: its names, what it makes of a wrong one, and completion by a real shell."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from common.cli import main
from common.settings.config import leaves
from rater.tariffs.commands import tariff

SAMPLE = Path(__file__).resolve().parents[2] / "deploy" / "sample-tariff"


def test_a_name_that_was_probably_meant_is_told() -> None:
    result = CliRunner().invoke(main, ["tarif", "list"])
    assert result.exit_code == 2
    assert "No such command 'tarif'. Did you mean 'tariff'?" in result.stderr
    nothing = CliRunner().invoke(main, ["frobnicate"])
    assert "There are up, balancer" in nothing.stderr


def test_the_list_of_a_group_says_of_each_command_what_it_does_in_a_whole_sentence() -> None:
    for group in ("apikey", "tariff", "account", "keys", "config", "journal"):
        listed = (
            CliRunner().invoke(main, [group, "--help"], terminal_width=80).stdout.partition("Commands:")[2]
        )
        assert listed.strip()
        assert not [line for line in listed.splitlines() if line.endswith("...")], group


def test_explain_takes_a_start_alone_and_no_end_alone() -> None:
    for words, code, said in (
        (["--end", "2012-02-02T17:30:00Z"], 2, "--end needs --start"),
        (["--start", "yesterday"], 2, "expected an RFC 3339 time such as"),
        (["--start", "2012-02-02T17:30:00Z", "--address", "127.0.0.1:1"], 3, "can't connect"),
    ):
        result = CliRunner().invoke(main, ["explain", "vdf", "rif", "0256", *words])
        assert result.exit_code == code, result.output
        assert said in result.stderr


def test_every_command_has_help_with_an_example() -> None:
    without = []
    for names, _ in leaves(main, click.Context(main)):
        result = CliRunner().invoke(main, [*names, "--help"])
        assert result.exit_code == 0
        if f"  ratel {' '.join(names)}" not in result.stdout.partition("Options:")[0]:
            without.append(" ".join(names))
    assert without == []


def test_what_a_command_imports_is_never_looked_through_for_garbage() -> None:
    start = "import click, gc; from common.cli import main; main.get_command(click.Context(main), 'call'); "
    said = subprocess.run(
        [sys.executable, "-c", start + "print(gc.isenabled(), gc.get_freeze_count() > 10_000)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said == "True True\n"


def test_bash_completes_commands_and_options() -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    script = CliRunner().invoke(main, ["completion", "bash"]).stdout
    assert subprocess.run([bash, "-n"], input=script, text=True, check=False).returncode == 0
    for words, expected in ((["ra"], {"rater", "rate"}), (["call", "--ad"], {"--address"})):
        line = " ".join(["ratel", *words])
        environment = {
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words)),
            "_RATEL_COMPLETE": "bash_complete",
            "PATH": "/usr/bin:/bin",
        }
        start = "import sys; sys.argv = ['ratel']; from common.cli import main; main(prog_name='ratel')"
        found = subprocess.run(
            [sys.executable, "-c", start], env=environment, capture_output=True, text=True, check=False
        ).stdout
        assert {row.partition(",")[2] for row in found.splitlines()} == expected


def test_tariff_files_are_checked_without_a_store(tmp_path: Path) -> None:
    whole = CliRunner().invoke(tariff, ["check", str(SAMPLE)])
    assert whole.exit_code == 0
    assert "errors: 0, warnings: 0" in whole.stdout
    wrong = tmp_path / "rates.json"
    wrong.write_text('[{"CstmId": "x", "Subject": "s", "DestinationPrefix": "1", "ActivationPeriods": 7}]')
    shown = CliRunner().invoke(tariff, ["check", str(wrong)])
    assert shown.exit_code == 1
    assert "rates.json[0].ActivationPeriods" in shown.stderr
    found = json.loads(CliRunner().invoke(tariff, ["check", str(wrong), "--json"]).stdout)
    assert found["error_count"] == len(found["errors"]) == 1
