"""The example of a configuration file and the table of all settings, made of the options themselves."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import click

from common.settings.config import options_of, variable
from common.settings.config_file import Names
from common.settings.config_show import default_of
from common.settings.config_values import to_toml
from common.settings.shared import SECTIONS, Shared, flag

WIDTH: Final = 100

HEAD: Final = """\
# The settings of all `ratel` commands, each commented out at its default. This file is read from
# /etc/ratel/ratel.toml, or from where --config or RATEL_CONFIG says.
#
# A flag comes before an environment variable, that before this file, and this file before the
# default. An empty text is no value. What several commands have stands in one of the first tables; a
# command may have its own value in its own table, under the flag's name, such as
# log-level = "debug" under [rater].
#
# `ratel config check` says what is wrong here, `ratel config show` what is in force, and why.
"""


class Entry(NamedTuple):
    key: str
    option: click.Option
    default: Any
    commands: tuple[str, ...]


def entries(commands: list[tuple[Names, click.Command]]) -> dict[Names, list[Entry]]:
    """Table → its settings; a shared one again with a command whose default is another one."""
    tables: dict[Names, dict[str, Entry]] = {(section,): {} for section in SECTIONS}
    # `ratel up` is last: what it says of a setting is about its own use of it.
    for path, command in sorted(commands, key=lambda found: found[0] == ("up",)):
        for option in options_of(command):
            default, name = default_of(option), " ".join(path)
            own = Entry(flag(option), option, default, (name,))
            if not isinstance(option, Shared):
                tables.setdefault(path, {})[own.key] = own
                continue
            section = tables[(option.section,)]
            first = section.setdefault(option.key, own._replace(key=option.key, commands=()))
            section[option.key] = first._replace(commands=(*first.commands, name))
            if first.default != default:
                tables.setdefault(path, {})[own.key] = own
    for name, about in SECTIONS.items():
        found = tables[(name,)]
        tables[(name,)] = {key: found[key] for key in about.keys if key in found}
    return {table: list(settings.values()) for table, settings in tables.items() if settings}


def example_file(commands: list[tuple[Names, click.Command]]) -> str:
    return "\n".join([HEAD, *_tables(commands)]) + "\n"


def _tables(commands: list[tuple[Names, click.Command]]) -> Iterator[str]:
    for table, settings in entries(commands).items():
        about = SECTIONS[table[0]].about if table[0] in SECTIONS else f"`ratel {' '.join(table)}`."
        yield f"\n[{'.'.join(table)}]\n# {about}"
        for entry in settings:
            limits = f"; {limit}" if (limit := limits_of(entry.option)) else ""
            users = f" of {_listed(entry.commands)}" if isinstance(entry.option, Shared) else ""
            yield ""
            yield from _comment(str(entry.option.help).replace("  [", " ["))
            yield from _comment(f"--{flag(entry.option)}{users}; {variable(entry.option)}{limits}")
            yield f"#{entry.key} = {default_toml(entry)}"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent="# ",
        subsequent_indent="# ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _listed(names: tuple[str, ...]) -> str:
    """Several commands of a group by the group's name."""
    if len(names) == 1:
        return names[0]
    return ", ".join(dict.fromkeys(name.partition(" ")[0] for name in names))


def default_toml(entry: Entry) -> str:
    if entry.default is None:
        return "[]" if entry.option.multiple else '""'
    return to_toml(entry.default)


def limits_of(option: click.Option) -> str:
    """What values there are, in words."""
    kind: Any = option.type
    if isinstance(kind, click.Choice):
        return " | ".join(map(str, kind.choices))
    if not isinstance(kind, click.IntRange | click.FloatRange):
        return ""
    more = "more than " if kind.min_open else ""
    if kind.max is None:
        return f"{more or 'at least '}{kind.min}"
    return f"{more}{kind.min} to {kind.max}"


def settings_table(commands: list[tuple[Names, click.Command]]) -> str:
    rows = ["| setting | default | environment | flag of | values |", "| --- | --- | --- | --- | --- |"]
    for table, settings in entries(commands).items():
        for entry in settings:
            default = "–" if entry.default is None else f"`{to_toml(entry.default)}`"
            cells = (
                f"`[{'.'.join(table)}] {entry.key}`",
                default,
                f"`{variable(entry.option)}`",
                f"`--{flag(entry.option)}` of {_listed(entry.commands)}",
                limits_of(entry.option).replace(" | ", ", "),
            )
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"
