"""`ratel config`: the settings of all commands checked, shown with where each comes from, and explained."""

from __future__ import annotations

import json
import os
import sys
from typing import Final

import click

from common.settings import config as settings
from common.settings.config_example import example_file, settings_table
from common.settings.config_file import DEFAULT_FILE, ConfigError, ConfigFile, Names
from common.settings.config_show import as_objects, as_text, grouped, resolve
from common.settings.config_values import hint
from common.settings.options import json_option, store_with_login
from common.storage.store_url import default_store_url

EXIT_WRONG: Final = 2
PREFIX: Final = "RATEL_"

Commands = list[tuple[Names, click.Command]]


@click.group()
def config() -> None:
    """The settings of all commands: check them, show them, explain them.

    A setting is a flag of its command, else an environment variable, else a line of the configuration file,
    else its default.
    """


def all_commands(ctx: click.Context) -> Commands:
    root = ctx.find_root()
    assert isinstance(root.command, click.Group)
    return [found for found in settings.leaves(root.command, root) if found[0][0] != "config"]


@config.command()
@settings.file_option
@click.pass_context
def check(ctx: click.Context) -> None:
    """Check the file and the environment, for all commands.

    \b
    Example:
      ratel config check

    \b
    Exit codes:
      0  nothing is wrong
      2  something is: each line on stderr says where, what, and what was expected
    """
    file, commands = settings.file_in_use(ctx), all_commands(ctx)
    for warning in unknown_variables(commands):
        click.echo(f"warning: {warning}", err=True)
    problems = all_problems(ctx, file, commands)
    for problem in problems:
        click.echo(f"ratel: {problem}", err=True)
    if problems:
        sys.exit(EXIT_WRONG)
    click.echo(f"{said_of(file)}: nothing is wrong")


def said_of(file: ConfigFile) -> str:
    if file.path is None:
        return f"no configuration file ({DEFAULT_FILE} is not there)"
    count = sum(len(table) for table in file.tables.values())
    return f"{file.path}: {count} setting{'s' * (count != 1)}"


def all_problems(ctx: click.Context, file: ConfigFile, commands: Commands) -> list[str]:
    """Each once, though several commands have it: those of the file by their lines, then the others."""
    root = ctx.find_root()
    problems = settings.unknown_tables(file, root)
    for path, command in commands:
        problems += settings.command_problems(file, command, path, root)
        problems += settings.environment_problems(command)
    if not problems:
        problems = [problem for path, command in commands for problem in login_problems(file, path, command)]

    def line(problem: str) -> int:
        number = problem.removeprefix(f"{file.path}:").partition(":")[0]
        return int(number) if number.isdecimal() else sys.maxsize

    return sorted(dict.fromkeys(problems), key=line)


def login_problems(file: ConfigFile, path: Names, command: click.Command) -> list[str]:
    """What is wrong with a store's URL and the passwords for it together."""
    found = {setting.option.name: setting.value for setting in resolve(file, path, command)}
    if "store_url" not in found:
        return []
    url = found["store_url"] or default_store_url()
    try:
        store_with_login(url, found["store_password_file"], found["sentinel_password_file"])
    except ConfigError as error:
        return [error.message]
    return []


def unknown_variables(commands: Commands) -> list[str]:
    known = {settings.variable(option) for _, command in commands for option in settings.options_of(command)}
    known |= {settings.FILE_VARIABLE}
    return [
        f"{name}: no setting has this environment variable{hint(name, known)}"
        for name in sorted(os.environ)
        if name.startswith(PREFIX) and name not in known
    ]


@config.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    short_help="Show settings, and where each value is from.",
)
@settings.file_option
@json_option("A list of JSON objects, for programs.")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[COMMAND [FLAG]...]")
@click.pass_context
def show(ctx: click.Context, as_json: bool, words: tuple[str, ...]) -> None:
    """Show all settings, or those of COMMAND, and where each value comes from.

    Passwords inside URLs are masked. With flags behind COMMAND it shows what a call with them would use.

    \b
    Examples:
      ratel config show
      ratel config show --json rater
      ratel config show rater --credit 2048
      ratel config show tariff activate
    """
    file, commands = settings.file_in_use(ctx), all_commands(ctx)
    flags: tuple[str, ...] = ()
    if words:
        commands, flags = named_command(commands, words)
    if problems := all_problems(ctx, file, commands):
        raise ConfigError(settings.summary(problems))
    found = [setting for path, command in commands for setting in resolve(file, path, command, flags)]
    if as_json:
        click.echo(json.dumps(as_objects(grouped(found)), ensure_ascii=False))
        return
    click.echo(f"# {said_of(file)}")
    for line in as_text(grouped(found)):
        click.echo(line)


def named_command(commands: Commands, words: tuple[str, ...]) -> tuple[Commands, tuple[str, ...]]:
    """The command that the words begin with, or the commands of a group, and the words that follow."""
    for path, command in commands:
        if words[: len(path)] == path:
            return [(path, command)], words[len(path) :]
    group = [found for found in commands if found[0][:1] == words[:1]]
    if group and len(words) == 1:
        return group, ()
    names = [" ".join(path) for path, _ in commands]
    raise click.UsageError(f"there is no command {' '.join(words)!r}{hint(' '.join(words), names)}")


@config.command(short_help="Print a file with every setting explained.")
@click.option("--table", is_flag=True, help="As a table in Markdown.")
@click.pass_context
def example(ctx: click.Context, table: bool) -> None:
    """Print a configuration file with every setting explained, commented out, at its default.

    \b
    Example:
      ratel config example > /etc/ratel/ratel.toml
    """
    commands = all_commands(ctx)
    click.echo(settings_table(commands) if table else example_file(commands), nl=False)
