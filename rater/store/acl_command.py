"""`ratel acl`: the users of a store of one's own."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

import click

from common.storage.store_login import LoginError, read_secret
from rater.store.users import SENTINEL_USERS, STORE_USERS, User, acl_file

_PASSWORD_BYTES: Final = 32
"""Random, so that the hash in the ACL file, which is a fast one, gives nothing away."""


@click.command()
@click.option(
    "--passwords",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Take each user's password from DIR/USER.password; users without one are off.  [default: all are]",
)
@click.option(
    "--create",
    is_flag=True,
    help="Make random passwords for the users that have none there, readable by you.",
)
@click.option("--sentinel", is_flag=True, help="The users of the sentinels, not of the stores.")
@click.option(
    "--redis-7.0",
    "redis_7_0",
    is_flag=True,
    help="Leave out commands that Redis 7.0 does not know, among them WAITAOF: no --durability always there.",
)
def acl(folder: Path | None, create: bool, sentinel: bool, redis_7_0: bool) -> None:
    """Print an ACL file for a store of your own.

    Each user may run just the commands that Ratel's code sends, on just its keys.

    \b
    Examples:
      ratel acl --passwords /etc/ratel/store --create > /etc/ratel/store/users.acl
      ratel rater --store redis://ratel-rater@HOST:6379 \\
        --store-password-file /etc/ratel/store/ratel-rater.password
    """
    users = SENTINEL_USERS if sentinel else STORE_USERS
    if create and folder is None:
        raise click.UsageError("--create needs --passwords, where they are written to")
    passwords = {} if folder is None else _passwords(folder, users, create)
    click.echo(acl_file(users, passwords, redis_7_0=redis_7_0), nl=False)


def _passwords(folder: Path, users: tuple[User, ...], create: bool) -> dict[str, str]:
    found: dict[str, str] = {}
    for user in users:
        file = folder / f"{user.name}.password"
        try:
            if create and not file.exists():
                _create(file)
            if file.exists():
                found[user.name] = read_secret(file)
        except LoginError as error:
            raise click.ClickException(str(error)) from None
        except OSError as error:
            raise click.ClickException(f"{file}: {error.strerror}") from None
    return found


def _create(file: Path) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(made, "w") as opened:
        opened.write(f"{secrets.token_urlsafe(_PASSWORD_BYTES)}\n")
