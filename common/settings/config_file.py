"""The configuration file: a TOML file of tables, and in which line of it each setting stands."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Final

import click

DEFAULT_FILE: Final = Path("/etc/ratel/ratel.toml")
"""Used when no other is named, and it need not be there."""

MAX_BYTES: Final = 1 << 20
"""With every setting in it and explained it has a fiftieth of this."""

Tables = dict[str, Any]
Names = tuple[str, ...]
"""The names that lead to a table or a setting."""


class ConfigError(click.ClickException):
    """A setting is wrong: one line on stderr, and the exit code of a wrong command line."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        click.echo(f"ratel: {self.message}", err=True)


class ConfigFile:
    """What a file says; without a file nothing."""

    def __init__(self, path: Path | None, text: str = "", tables: Tables | None = None) -> None:
        self.path = path
        self.tables: Tables = tables or {}
        self._text = text

    def table(self, names: Names) -> Tables:
        """The settings of a table; empty when there is none."""
        found: Any = self.tables
        for name in names:
            found = found.get(name) if isinstance(found, dict) else None
        return found if isinstance(found, dict) else {}

    def where(self, names: Names) -> str:
        """`FILE:LINE` of a setting or table."""
        line = self._lines.get(names)
        return f"{self.path}:{line}" if line else str(self.path)

    @cached_property
    def _lines(self) -> dict[Names, int]:
        """tomllib tells no lines, so the text is cut into its statements, each of which is TOML by itself."""
        import tomllib  # noqa: PLC0415 - where there is no file it is not needed

        lines: dict[Names, int] = {}
        table: Names = ()
        statement, began = "", 0
        for number, line in enumerate(self._text.splitlines(keepends=True), 1):
            began = began if statement else number
            statement += line
            try:
                parsed = tomllib.loads(statement)
            except tomllib.TOMLDecodeError:
                continue  # the value goes on in the next line
            if statement.lstrip().startswith("["):
                table = _single(parsed)
                _note(lines, (), parsed, began)
            else:
                _note(lines, table, parsed, began)
            statement = ""
        return lines


def _single(parsed: Any) -> Names:
    """The path that a table's heading alone makes."""
    names: list[str] = []
    while isinstance(parsed, dict) and parsed:
        name, parsed = next(iter(parsed.items()))
        names.append(name)
    return tuple(names)


def _note(lines: dict[Names, int], table: Names, parsed: Any, line: int) -> None:
    if isinstance(parsed, dict):
        for name, inner in parsed.items():
            lines.setdefault((*table, name), line)
            _note(lines, (*table, name), inner, line)


def read_file(named: Path | None) -> ConfigFile:
    """The named file, else the one at the usual place if it is there. Raises ConfigError."""
    path = named or DEFAULT_FILE
    try:
        with path.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
    except FileNotFoundError:
        if named is None:
            return ConfigFile(None)
        raise ConfigError(f"there is no configuration file {path}") from None
    except OSError as error:
        raise ConfigError(f"can't read the configuration file {path}: {error.strerror}") from None
    if len(content) > MAX_BYTES:
        raise ConfigError(f"the configuration file {path} has more than {MAX_BYTES} bytes")
    import tomllib  # noqa: PLC0415 - where there is no file it is not needed

    try:
        text = content.decode()
        tables = tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8, so not TOML") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(_not_toml(path, text, str(error))) from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply") from None
    return ConfigFile(path, text, tables)


def _not_toml(path: Path, text: str, said: str) -> str:
    """tomllib says the place at the end: `Expected … (at line 3, column 5)`, or `(at end of document)`."""
    reason, _, place = said.removesuffix(")").rpartition(" (at ")
    line = text.count("\n") + 1
    column = ""
    if place.startswith("line "):
        number, _, column = place.removeprefix("line ").partition(", ")
        line = int(number)
    return f"{path}:{line}: not TOML: {reason}{' at ' * bool(column)}{column}"
