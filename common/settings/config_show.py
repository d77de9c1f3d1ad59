"""What each setting is and where it comes from, as `ratel config show` tells it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import click
from click.core import ParameterSource

from common.settings.config import Place, defaults, file_in_use, options_of, place_in, places, variable
from common.settings.config_file import ConfigFile, Names
from common.settings.config_values import to_toml
from common.settings.shared import SECTIONS, Shared, flag
from common.storage.store_login import mask_url

MAX_COLUMN: Final = 44
"""Origins stand behind this column, or behind the value where that is longer."""


class Setting(NamedTuple):
    command: Names
    option: click.Option
    value: Any
    """Converted; None when it is not set."""
    kind: str
    """Where the value comes from: default, file, environment or flag."""
    origin: str
    """The same with its name: `FILE:LINE`, the environment's variable, the flag."""
    own: bool
    """It is in the command's own table, or would be."""

    @property
    def place(self) -> Place:
        return places(self.command, self.option)[0 if self.own else -1]


def resolve(
    file: ConfigFile, path: Names, command: click.Command, words: Sequence[str] = ()
) -> list[Setting]:
    """The settings of a command, were it called with these words. Raises UsageError."""
    name = " ".join(("ratel", *path))
    ctx = click.Context(command, info_name=name, default_map=defaults(file, command, path))
    given = command.make_parser(ctx).parse_args(list(words))[0] if words else {}
    return [_resolve(file, path, option, ctx, given) for option in options_of(command)]


def setting_of(ctx: click.Context, part: str, name: str) -> Setting | None:
    """What a command that this one starts will take from environment or file, by the argument's name; None
    when neither says anything. Both must be right, see `config.check_parts`."""
    root = ctx.find_root()
    command = root.command.get_command(root, part) if isinstance(root.command, click.Group) else None
    if command is None:  # not by way of `ratel`
        return None
    file = file_in_use(ctx)
    part_ctx = click.Context(command, info_name=part, default_map=defaults(file, command, (part,)))
    [option] = (each for each in options_of(command) if each.name == name)
    setting = _resolve(file, (part,), option, part_ctx, {})
    return None if setting.kind == "default" else setting


def _resolve(
    file: ConfigFile, path: Names, option: click.Option, ctx: click.Context, given: dict[str, Any]
) -> Setting:
    own = not isinstance(option, Shared)
    value, source = option.consume_value(ctx, given)
    if source is ParameterSource.DEFAULT:
        value = default_of(option)
        if value is None:
            return Setting(path, option, None, "default", "not set", own)
        return Setting(path, option, _converted(option, ctx, value), "default", "default", own)
    option.process_value(ctx, value)  # for its errors; callbacks make of it what no file can hold
    value = _converted(option, ctx, value)
    if source is ParameterSource.ENVIRONMENT:
        return Setting(path, option, value, "environment", variable(option), own)
    if source is ParameterSource.DEFAULT_MAP:
        place = place_in(file, path, option)
        assert place is not None
        return Setting(path, option, value, "file", file.where(place.path), place.table == path)
    return Setting(path, option, value, "flag", f"--{flag(option)}", own)


def _converted(option: click.Option, ctx: click.Context, value: Any) -> Any:
    """An address that is `none` stays so."""
    converted = option.type_cast_value(ctx, value)
    return value if converted is None else converted


def default_of(option: click.Option) -> Any:
    """None when there is none that a file could hold."""
    value = option.to_info_dict()["default"]
    return None if value in ((), []) else value


def grouped(settings: Iterable[Setting]) -> dict[Names, dict[str, Setting]]:
    """Table → key → setting: what several commands have once, and again under a command where it differs."""
    shared: dict[Place, Setting] = {}
    tables: dict[Names, dict[str, Setting]] = {(section,): {} for section in SECTIONS}
    for setting in settings:
        if not setting.own:
            first = shared.setdefault(setting.place, setting)
            differs = (first.value, first.origin) != (setting.value, setting.origin)
            setting = setting._replace(own=differs)  # noqa: PLW2901
        tables.setdefault(setting.place.table, {})[setting.place.key] = setting
    return {table: found for table, found in tables.items() if found}


def as_text(tables: dict[Names, dict[str, Setting]]) -> Iterable[str]:
    for table, settings in tables.items():
        yield ""
        yield f"[{'.'.join(table)}]"
        for key, setting in settings.items():
            line = f"# {key}" if setting.value is None else f"{key} = {to_toml(setting.value)}"
            yield f"{line:<{MAX_COLUMN}}  # {setting.origin}"


def as_objects(tables: dict[Names, dict[str, Setting]]) -> list[dict[str, Any]]:
    return [
        {
            "table": ".".join(table),
            "key": key,
            "value": _plain(setting.value),
            "from": setting.kind,
            "where": setting.origin if setting.kind != "default" else None,
            "variable": variable(setting.option),
            "flag": f"--{flag(setting.option)}",
        }
        for table, settings in tables.items()
        for key, setting in settings.items()
    ]


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return [_plain(each) for each in value]
    return mask_url(str(value))
