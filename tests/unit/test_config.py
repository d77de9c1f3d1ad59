"""One configuration: which value wins, where it is said to come from, what is refused, what is masked."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from common.cli import main
from common.commands.config_command import all_commands
from common.settings import config
from common.settings.config_example import example_file
from common.settings.config_file import ConfigError, read_file
from common.settings.config_show import Setting, resolve
from common.settings.shared import SECTIONS, Shared, flag

ROOT = Path(__file__).resolve().parents[2]

ONE_RUN = {
    "--config",
    "--json",  # the form of one answer
    "--dry-run",  # what one run does
    "--reset-balances",
    "--raters",  # of `ratel load`
    "--example",
    "--start",  # what one question is about
    "--end",
    "--seconds",
    "--last",
    "--request-id",
    "--role",
    "--output",  # which files one run reads and writes
    "--rejects",
    "--tariff",
    "--restart",
    "--credit",  # what becomes of one account
    "--sms",
    "--cents",
    "--traffic",
    "--type",
    "--floor",
    "--no-floor",
    "--plan",
    "--reset-day",
    "--bucket",
    "--subject",  # which accounts one run looks at
    "--name",  # what one key is for, and what is limited
    "--tenant",
    "--passwords",  # whom an ACL file is for
    "--create",
    "--sentinel",
    "--redis-7.0",
    "--force",  # restart what would refuse connections meanwhile
    "--all-tenants",
    "--allow",
    "--expires",
    "--rate",
    "--burst",
    "--in-flight",
}
"""Options that are no settings: in a file, each would change what every later run does."""

Commands = dict[str, click.Command]
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        file = tmp_path / "ratel.toml"
        file.write_text(text)
        return file

    return write


@pytest.fixture(scope="module")
def commands() -> Commands:
    found = all_commands(click.Context(main, info_name="ratel"))
    return {" ".join(path): command for path, command in found}


def ratel(*words: str, **environment: str) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], env=environment)


def settings(commands: Commands, name: str, file: Path | None, *words: str) -> dict[str, Setting]:
    path = tuple(name.split())
    read = read_file(file or Path(os.devnull))
    return {flag(each.option): each for each in resolve(read, path, commands[name], words)}


# --- precedence and origin ------------------------------------------------------------------------


def test_a_flag_beats_the_environment_that_beats_the_file_that_beats_the_default(
    commands: Commands, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    def credit(file: Path | None, *words: str) -> tuple[Any, str, str]:
        found = settings(commands, "rater", file, *words)["credit"]
        return found.value, found.kind, found.origin

    assert credit(None) == (1024, "default", "default")
    file = write("# a comment\n[rater]\n\ncredit = 11\n")
    assert credit(file) == (11, "file", f"{file}:4")
    monkeypatch.setenv("RATEL_RATER_CREDIT", "22")
    assert credit(file) == (22, "environment", "RATEL_RATER_CREDIT")
    assert credit(file, "--credit", "33") == (33, "flag", "--credit")


def test_the_command_itself_gets_what_is_shown(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    from rater.command import rater

    monkeypatch.setattr(rater, "callback", lambda **given: seen.update(given))
    file = write(
        "[rater]\ncredit = 1\nmax-call = 2\nkey-ttl = 77\n"
        '[cluster]\nbalancers = ["a:1", "b:2"]\nkey-ttl = 66\n[store]\nurl = "redis://h"\n'
    )
    result = ratel(
        "rater", "--config", str(file), "--credit", "3", RATEL_RATER_CREDIT="9", RATEL_RATER_MAX_CALL="8"
    )
    assert result.exit_code == 0, result.output
    assert (seen["credit"], seen["max_call_s"], seen["key_ttl_s"]) == (3, 8, 77)
    assert [str(each) for each in seen["balancers"]] == ["a:1", "b:2"]
    assert (seen["deadline_ms"], seen["store_url"]) == (5000, "redis://h")


def test_a_commands_own_table_beats_the_shared_one(commands: Commands, write: Write) -> None:
    file = write('[log]\nlevel = "error"\n[rater]\nlog-level = "debug"\n')
    found = settings(commands, "rater", file)["log-level"]
    assert (found.value, found.origin, str(found.place)) == ("debug", f"{file}:4", "[rater] log-level")
    found = settings(commands, "balancer", file)["log-level"]
    assert (found.value, found.origin, str(found.place)) == ("error", f"{file}:2", "[log] level")


def test_lists_and_commands_in_groups(commands: Commands, write: Write) -> None:
    file = write('[call]\naddress = [\n  "a:1",\n  "b:2",\n]\n[tariff.diff]\nlimit = 7\ntariff = 1\n')
    found = settings(commands, "call", file)["address"]
    assert (list(found.value), found.origin) == (["a:1", "b:2"], f"{file}:2")
    assert settings(commands, "tariff diff", file)["limit"].value == 7


def test_an_empty_text_is_no_value(commands: Commands, write: Write) -> None:
    file = write('[rater]\nname = ""\ncredit = ""\n[log]\nlevel = ""\n')
    assert {settings(commands, "rater", file)[name].kind for name in ("name", "credit", "log-level")} == {
        "default"
    }
    assert ratel("config", "check", "--config", str(file)).exit_code == 0


@pytest.mark.parametrize("text", ["", "# nothing\n", "[rater]\n"])
def test_a_file_may_say_nothing(write: Write, text: str) -> None:
    assert ratel("config", "check", "--config", str(write(text))).exit_code == 0


def test_which_file_it_is(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def shown(*words: str, **environment: str) -> int:
        result = ratel(*words, "--json", **environment)
        assert result.exit_code == 0, result.output
        return next(each["value"] for each in json.loads(result.output) if each["key"] == "credit")

    usual, by_variable, by_flag = (tmp_path / name for name in ("usual", "variable", "flag"))
    for credit, file in enumerate((usual, by_variable, by_flag), 1):
        file.write_text(f"[rater]\ncredit = {credit}\n")
    monkeypatch.setattr("common.settings.config_file.DEFAULT_FILE", usual)
    assert shown("config", "show", RATEL_CONFIG="") == 1
    assert shown("config", "show", RATEL_CONFIG=str(by_variable)) == 2
    assert shown("--config", str(by_flag), "config", "show", RATEL_CONFIG=str(by_variable)) == 3
    assert shown("config", "show", "--config", str(by_flag), RATEL_CONFIG=str(by_variable)) == 3
    usual.unlink()
    assert shown("config", "show", RATEL_CONFIG="") == 1024


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "complaint"),
    [
        ("[rater]\n\ncredti = 5\n", 3, "[rater] credti: there is no such setting; did you mean 'credit'?"),
        ("[store]\nurll = 'x'\n", 2, "[store] urll: there is no such setting; did you mean 'url'?"),
        ("[ratter]\ncredit = 5\n", 1, "there is no table 'ratter'; did you mean 'rater'?"),
        ("\ncredit = 5\n", 2, "there is no setting outside a table, 'credit'"),
        ("rater = 5\n", 1, "rater is a table, written [rater]"),
        ("[tariff]\nwait = 5\n", 2, "[tariff] wait: there is no such table"),
        ("[tariff.dif]\nlimit = 5\n", 1, "[tariff] dif: there is no such table; did you mean 'diff'?"),
        (
            '[rater]\ncredit = "5"\n',
            2,
            '[rater] credit = "5": expected a whole number, not text',
        ),
        (
            "[rater]\ncredit = true\n",
            2,
            "[rater] credit = true: expected a whole number, not true or false",
        ),
        ("[rater]\ncredit = 5.0\n", 2, "[rater] credit = 5.0: expected a whole number, not a number"),
        ("[rater.credit]\n", 1, "[rater] credit = {…}: expected a whole number, not a table"),
        ("[rater]\nname = 5\n", 2, "[rater] name = 5: expected text in quotes, not a whole number"),
        ("[rater]\nname = 2026-01-01\n", 2, "expected text in quotes, not a date or time"),
        ("[call]\ntimeout = nan\n", 2, "[call] timeout = nan: expected a number, not a number"),
        ('[call]\naddress = "a:1"\n', 2, "expected a list of texts in quotes in brackets, not text"),
        ("[call]\naddress = [1]\n", 2, "expected a list of texts in quotes, with a whole number in it"),
        ("[front]\nreuse-port = 1\n", 2, "expected true or false, not a whole number"),
        ("[rater]\ncredit = 0\n", 2, "[rater] credit = 0: 0 is not in the range 1<=x<=100000"),
        ('[log]\nlevel = "loud"\n', 2, "'loud' is not one of 'debug', 'info', 'warning', 'error'"),
        ('[cluster]\nbalancers = ["here"]\n', 2, "expected HOST:PORT such as 127.0.0.1:2001, not 'here'"),
        ('[audit]\narchive = ["/no/such"]\n', 2, "'/no/such' does not exist"),
        ('[store]\nurl = "http://h"\n', 2, "a store's URL begins with redis://"),
        ('[store]\npassword-file = "/no/such"\n', 2, "'/no/such' does not exist"),
        ("[rater]\ncredit = \n", 2, "not TOML: Invalid value at column 10"),
        ("[rater]\ncredit = 1\ncredit = 2\n", 3, "not TOML: Cannot overwrite a value at column 11"),
        ("[rater]\ncredit", 2, "not TOML: Expected '=' after a key in a key/value pair"),
        ("[rater]\nname = '''a\n\n", 4, "not TOML: "),
    ],
)
def test_a_wrong_file_is_told_in_one_line(write: Write, text: str, line: int, complaint: str) -> None:
    file = write(text)
    result = ratel("config", "check", "--config", str(file))
    assert result.exit_code == 2
    [said] = result.stderr.splitlines()
    assert said.startswith(f"ratel: {file}:{line}: ")
    assert complaint in said
    assert result.stdout == ""


def test_a_wrong_setting_stops_the_start(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    from rater.command import rater

    monkeypatch.setattr(rater, "callback", lambda **_: pytest.fail("it started"))
    file = write("[rater]\ncredit = 0\nnaem = 'x'\n")
    result = ratel("rater", RATEL_CONFIG=str(file))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        f"ratel: {file}:2: [rater] credit = 0: 0 is not in the range 1<=x<=100000 "
        "(and 1 more: see `ratel config check`)\n"
    )


def test_a_wrong_environment_variable_is_told_in_one_line() -> None:
    result = ratel("rater", RATEL_RATER_CREDIT="many")
    assert (result.exit_code, result.stderr) == (
        2,
        "ratel: RATEL_RATER_CREDIT: 'many' is not a valid integer range\n",
    )
    result = ratel("tariff", "diff", "vdf", "1", "2", RATEL_TARIFF_DIFF_LIMIT="-1")
    assert (result.exit_code, result.stderr) == (
        2,
        "ratel: RATEL_TARIFF_DIFF_LIMIT: -1 is not in the range 0<=x<=10000\n",
    )
    result = ratel("rater", "--credit", "many", RATEL_RATER_CREDIT="5")
    assert result.exit_code == 2
    assert "Usage: " in result.stderr, "what is typed wrong is told with how it would be right"


def test_a_wrong_variable_that_a_flag_overrides_does_no_harm(commands: Commands, monkeypatch: Any) -> None:
    monkeypatch.setenv("RATEL_RATER_CREDIT", "many")
    assert settings(commands, "rater", None, "--credit", "5")["credit"].value == 5
    with pytest.raises(click.BadParameter):
        settings(commands, "rater", None)


def test_check_tells_everything_at_once(write: Write) -> None:
    file = write('[rater]\ncredit = 0\nnaem = "x"\n[log]\nlevel = "loud"\n[zero]\n')
    result = ratel("config", "check", "--config", str(file), RATEL_STUCK="x", RATEL_RATER_CREDI="5")
    assert result.exit_code == 2
    said = sorted(result.stderr.splitlines())
    assert len(said) == 6, said
    assert said[-1] == (
        "warning: RATEL_RATER_CREDI: no setting has this environment variable; "
        "did you mean 'RATEL_RATER_CREDIT'?"
    )
    assert [line for line in said if "RATEL_STUCK" in line] == [
        "ratel: RATEL_STUCK: 'x' is not a valid integer range"
    ]


def test_what_concerns_another_command_does_not_stop_this_one(write: Write) -> None:
    file = write("[rater]\ncredti = 0\n[cluster]\nbalancers = 5\n")
    result = ratel("call", "GetCost", "--timeout", "0.1", "--address", "127.0.0.1:1", RATEL_CONFIG=str(file))
    assert result.exit_code == 3


def test_files_that_can_t_be_read(tmp_path: Path) -> None:
    for name, reason in ((tmp_path / "none", "there is no configuration file"), (tmp_path, "can't read")):
        result = ratel("config", "check", "--config", str(name))
        assert result.exit_code == 2
        assert result.stderr.startswith(f"ratel: {reason}")
        assert str(name) in result.stderr
        assert result.stderr.count("\n") == 1
    (tmp_path / "latin").write_bytes(b"[rater]\nname = '\xe4'\n")
    with pytest.raises(ConfigError, match="latin:2: not UTF-8"):
        read_file(tmp_path / "latin")
    (tmp_path / "big").write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(ConfigError, match="more than 1048576 bytes"):
        read_file(tmp_path / "big")
    (tmp_path / "deep").write_text("a = " + "[" * 100_000)
    with pytest.raises(ConfigError, match="deep"):
        read_file(tmp_path / "deep")


def test_help_is_there_whatever_the_file_says(write: Write) -> None:
    result = ratel("rater", "--help", RATEL_CONFIG=str(write("[rater\n")))
    assert result.exit_code == 0
    assert "--config FILE" in result.stdout


def test_a_command_pays_for_no_more_than_it_needs() -> None:
    program = (
        "import sys\n"
        "from common.cli import main\n"
        "try:\n"
        "    main(['call', 'GetCost', '--address', '127.0.0.1:1', '--timeout', '0.1'])\n"
        "finally:\n"
        "    print(sorted({'tomllib', 'redis', 'zmq', 'uvloop', 'common.storage.store_login'} & "
        "set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"RATEL_CONFIG": ""},
    )
    assert done.stdout == "[]\n", done.stderr


# --- secrets --------------------------------------------------------------------------------------


def test_no_password_is_shown(write: Write) -> None:
    url = "redis+sentinel://ratel:hush@a,b/s?sentinel_user=x&sentinel_password=hush"
    file = write(f'[store]\nurl = "{url}"\n[tariff.diff]\nstore = "redis://:hush@h"\n')
    for words in (("show",), ("show", "--json"), ("show", "rater"), ("show", "rater", "--store", url)):
        result = ratel("config", *words, RATEL_CONFIG=str(file))
        assert result.exit_code == 0, result.output
        assert "hush" not in result.output
        assert "redis+sentinel://ratel:***@a,b/s?sentinel_user=x&sentinel_password=***" in result.output
    for wrong in (f'["{url}"]', f'"{url.replace("a,b", "")}"', '"redis://:hush/hush@hush@h"'):
        result = ratel("config", "check", "--config", str(write(f"[store]\nurl = {wrong}\n")))
        assert result.exit_code == 2
        assert "hush" not in result.output


def test_a_password_that_fits_no_store_is_found(write: Write, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hush")
    for url, complaint in (
        ("redis://:hush@h", "the store's URL has a password in it already"),
        ("", "the embedded store has no password: say which store by --store"),
    ):
        file = write(f'[store]\nurl = "{url}"\npassword-file = "{secret}"\n')
        for words in (("config", "check"), ("audit",)):
            result = ratel(*words, RATEL_CONFIG=str(file))
            assert result.exit_code == 2
            [said] = result.stderr.splitlines()
            assert "--store-password-file" in said
            assert said.endswith(complaint)


# --- every option ---------------------------------------------------------------------------------


def test_every_option_is_a_setting_or_says_what_one_run_does(commands: Commands) -> None:
    without = {
        f"--{flag(option)}"
        for command in commands.values()
        for option in command.params
        if isinstance(option, click.Option) and not option.envvar
    }
    assert without <= ONE_RUN
    for name in ("balancer", "gateway", "rater", "up"):
        options = [option for option in commands[name].params if not option.envvar]
        assert {option.opts[0] for option in options} <= {"--config", "--example"}, (
            "services have settings only"
        )


def test_a_variable_means_one_thing(commands: Commands) -> None:
    """Options of several commands have one variable only where they have one place in the file."""
    places: dict[str, set[Any]] = {}
    for name, command in commands.items():
        for option in config.options_of(command):
            path = tuple(name.split())
            places.setdefault(config.variable(option), set()).add(config.places(path, option)[-1])
            assert config.variable(option).startswith("RATEL_")
            assert option.help, f"{name} --{flag(option)}"
    assert {variable: found for variable, found in places.items() if len(found) > 1} == {}


def test_the_list_of_shared_settings_is_complete(commands: Commands) -> None:
    found = {
        (option.section, option.key)
        for command in commands.values()
        for option in config.options_of(command)
        if isinstance(option, Shared)
    }
    assert found == {(name, key) for name, section in SECTIONS.items() for key in section.keys}
    assert not set(SECTIONS) & {name.split()[0] for name in commands}


def test_every_setting_has_a_line_in_the_example_that_is_its_default(
    commands: Commands, write: Write
) -> None:
    text = (ROOT / "deploy" / "ratel.toml").read_text()
    uncommented = re.sub(r"^#(?=[a-z-]+ = )", "", text, flags=re.MULTILINE)
    assert not any(tomllib.loads(text)[section] for section in SECTIONS)
    tables = tomllib.loads(uncommented)
    file = write(uncommented)
    assert ratel("config", "check", "--config", str(file)).stderr == ""
    for name in commands:
        path = tuple(name.split())
        there, nowhere = settings(commands, name, file), settings(commands, name, None)
        for key, setting in nowhere.items():
            assert there[key].value == setting.value or (there[key].value, setting.value) == ((), None)
            assert any(
                place.key in read_file(file).table(place.table)
                for place in config.places(path, setting.option)
            )
    assert list(tables)[: len(SECTIONS)] == list(SECTIONS)


def test_the_example_is_made_of_the_options(commands: Commands) -> None:
    made = example_file([(tuple(name.split()), command) for name, command in commands.items()])
    assert (ROOT / "deploy" / "ratel.toml").read_text() == made, "make settings"
    assert ratel("config", "example").stdout == made
