"""Writes the table in docs/configuration.md from the options: `python -m tests.settings_doc`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from common.cli import main
from common.commands.config_command import all_commands
from common.settings.config_example import settings_table

PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"
BEGIN: Final = "<!-- settings: `make settings` writes this table from the options of the commands -->\n"
END: Final = "<!-- end of settings -->\n"


def page_with_table(page: str) -> str:
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    table = settings_table(all_commands(click.Context(main, info_name="ratel")))
    return f"{before}{BEGIN}{table}{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page_with_table(PAGE.read_text()))
