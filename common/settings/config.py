"""One configuration for all commands: flags over the environment over the file over defaults.

The settings are the options of the commands (`common.settings.options`), so each is declared, explained and
checked
in one place. click itself puts flags above environment variables above `Context.default_map`, and here
that map is made of the file: an eager option `--config`, which `common.cli` gives every command, reads it
before the others are looked at.

A command checks what concerns it: that the file is TOML, the names of all tables, its own table and the
shared ones that it uses. `ratel up` does so for the parts that it starts, `ratel config check` for all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import click

from common.settings.config_file import DEFAULT_FILE, ConfigError, ConfigFile, Names, read_file
from common.settings.config_values import hint, reason_of, show_value, wrong_value
from common.settings.shared import SECTIONS, Shared, flag, is_setting

FILE_VARIABLE: Final = "RATEL_CONFIG"
_NAMED: Final = "ratel.config.named"
_READ: Final = "ratel.config.read"


class Place(NamedTuple):
    """Where a setting may stand in the file."""

    table: Names
    key: str

    @property
    def path(self) -> Names:
        return (*self.table, self.key)

    def __str__(self) -> str:
        return f"[{'.'.join(self.table)}] {self.key}"


Problem = str
"""One line that says where, what and why."""


def options_of(command: click.Command) -> list[click.Option]:
    """A command's settings."""
    return [option for option in command.params if isinstance(option, click.Option) and is_setting(option)]


def places(command: Names, option: click.Option) -> list[Place]:
    """The command's own table comes first."""
    own = Place(command, flag(option))
    return [own, Place((option.section,), option.key)] if isinstance(option, Shared) else [own]


def leaves(group: click.Group, ctx: click.Context, path: Names = ()) -> Iterator[tuple[Names, click.Command]]:
    """Every command that does something itself, with the words that call it. Imports all of them."""
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        if isinstance(command, click.Group):
            yield from leaves(command, ctx, (*path, name))
        elif command is not None:
            yield (*path, name), command


# --- a command's start ----------------------------------------------------------------------------------


_HELP: Final = (
    "Take settings that are neither flags nor in the environment from this file.  "
    f"[env var: {FILE_VARIABLE}; default: {DEFAULT_FILE}, if it is there]"
)
_FILE: Final[dict[str, Any]] = {
    "metavar": "FILE",
    "type": click.Path(path_type=Path),
    "expose_value": False,
    "help": _HELP,
}


def root_file_option(group: Any) -> Any:
    """`ratel --config FILE COMMAND`; the command may be told after its own name, too."""
    return click.option("--config", envvar=FILE_VARIABLE, callback=_remember, **_FILE)(group)


def file_option(command: Any) -> Any:
    """For a command that reads the file itself, by `file_in_use`."""
    return click.option("--config", callback=_remember, **_FILE)(command)


def _remember(ctx: click.Context, _option: click.Parameter, named: Path | None) -> None:
    if named is not None:
        ctx.meta[_NAMED] = named


def read_by(command: click.Command) -> None:
    """Have a command, or all of a group, take settings from the file."""
    if isinstance(command, click.Group):
        for each in command.commands.values():
            read_by(each)
    elif not any(option.callback is _apply for option in command.params):
        command.params.append(click.Option(["--config"], is_eager=True, callback=_apply, **_FILE))


@contextlib.contextmanager
def environment_errors() -> Iterator[None]:
    """A wrong environment variable is told in one line, like a wrong line of the file; not so a wrong command
    line, which click shows with how it would be right."""
    try:
        yield
    except click.BadParameter as error:
        option, ctx = error.param, error.ctx
        if ctx is None or not isinstance(option, click.Option) or not option.name:
            raise
        if ctx.get_parameter_source(option.name) is not click.core.ParameterSource.ENVIRONMENT:
            raise
        raise ConfigError(f"{variable(option)}: {reason_of(error)}") from None


def variable(option: click.Option) -> str:
    """The environment variable of a setting."""
    return option.envvar if isinstance(option.envvar, str) else (option.envvar or [""])[0]


def _apply(ctx: click.Context, _option: click.Parameter, named: Path | None) -> None:
    root = ctx.find_root()
    if ctx.resilient_parsing or root is ctx:
        return
    _remember(ctx, _option, named)
    file = file_in_use(ctx)
    problems = [*unknown_tables(file, root), *command_problems(file, ctx.command, path_of(ctx), root)]
    if problems:
        raise ConfigError(summary(problems))
    ctx.default_map = defaults(file, ctx.command, path_of(ctx))


def file_in_use(ctx: click.Context) -> ConfigFile:
    """The file that settings are taken from, read once. Raises ConfigError."""
    if _READ not in ctx.meta:
        ctx.meta[_READ] = read_file(ctx.meta.get(_NAMED)) if ctx.parent else ConfigFile(None)
    file: ConfigFile = ctx.meta[_READ]
    return file


def path_of(ctx: click.Context) -> Names:
    """The words that call a command: `("tariff", "list")`."""
    words: list[str] = []
    at: click.Context | None = ctx
    while at is not None and (at.parent is not None or not words):
        words.insert(0, at.info_name or "")
        at = at.parent
    return tuple(words)


def defaults(file: ConfigFile, command: click.Command, path: Names) -> dict[str, Any]:
    """The command's `default_map`."""
    found = {}
    for option in options_of(command):
        place = place_in(file, path, option)
        if place is not None:
            assert option.name
            found[option.name] = file.table(place.table)[place.key]
    return found


def place_in(file: ConfigFile, path: Names, option: click.Option) -> Place | None:
    """Where the file says what this command takes; an empty text says nothing, as in the environment."""
    for place in places(path, option):
        if file.table(place.table).get(place.key, "") != "":
            return place
    return None


def summary(problems: list[Problem]) -> str:
    more = len(problems) - 1
    rest = f" (and {more} more: see `ratel config check`)" if more else ""
    return f"{problems[0]}{rest}"


# --- what is wrong ----------------------------------------------------------------------------------------


def unknown_tables(file: ConfigFile, root: click.Context) -> list[Problem]:
    """Tables at the top of the file that nobody has; needs no command's module."""
    assert isinstance(root.command, click.Group)
    known = {*root.command.list_commands(root), *SECTIONS} - {"config"}
    problems = []
    for name, value in file.tables.items():
        if name not in known:
            where, what = (
                file.where((name,)),
                "table" if isinstance(value, dict) else "setting outside a table,",
            )
            problems.append(f"{where}: there is no {what} {name!r}{hint(name, known)}")
        elif not isinstance(value, dict):
            problems.append(f"{file.where((name,))}: {name} is a table, written [{name}]")
    return problems


def command_problems(
    file: ConfigFile, command: click.Command, path: Names, root: click.Context
) -> list[Problem]:
    """What is wrong with the tables that a command uses."""
    if not file.tables:
        return []
    problems = list(_group_problems(file, path, root))
    tables: dict[Names, dict[str, click.Option]] = {path: {}}
    for option in options_of(command):
        for place in places(path, option):
            tables.setdefault(place.table, {})[place.key] = option
    for table, options in tables.items():
        others = SECTIONS[table[0]].keys if table[0] in SECTIONS else ()
        for key, value in file.table(table).items():
            place = Place(table, key)
            where = f"{file.where(place.path)}: {place}"
            if key not in options and key not in others:
                problems.append(f"{where}: there is no such setting{hint(key, (*options, *others))}")
            elif key in options and (reason := wrong_value(options[key], value, command)):
                problems.append(f"{where} = {show_value(value)}: {reason}")
    return problems


def _group_problems(file: ConfigFile, path: Names, root: click.Context) -> Iterator[Problem]:
    """A group of commands has tables for them, and no settings of its own."""
    group: click.Command | None = root.command
    for depth, name in enumerate(path[:-1], 1):
        group = group.get_command(root, name) if isinstance(group, click.Group) else None
        known = group.list_commands(root) if isinstance(group, click.Group) else []
        for key in file.table(path[:depth]):
            if key not in known:
                place = Place(path[:depth], key)
                where = f"{file.where(place.path)}: {place}"
                yield f"{where}: there is no such table{hint(key, known)}"


def environment_problems(command: click.Command) -> list[Problem]:
    """What is wrong with the environment variables of a command's settings."""
    ctx = click.Context(command, info_name=command.name)
    problems = []
    for option in options_of(command):
        try:
            value = option.value_from_envvar(ctx)
            if value is not None:
                option.process_value(ctx, value)
        except click.UsageError as error:
            problems.append(f"{variable(option)}: {reason_of(error)}")
    return problems


def check_parts(ctx: click.Context, parts: tuple[str, ...]) -> None:
    """For a command that starts others: that their settings are right as well. Raises ConfigError."""
    root = ctx.find_root()
    if root is ctx:  # not by way of `ratel`, so without a file
        return
    assert isinstance(root.command, click.Group)
    file = file_in_use(ctx)
    for name in parts:
        command = root.command.get_command(root, name)
        assert command is not None
        problems = [*command_problems(file, command, (name,), root), *environment_problems(command)]
        if problems:
            raise ConfigError(summary(problems))
