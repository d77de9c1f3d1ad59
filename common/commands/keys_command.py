"""`ratel keys`: make, list, allow and revoke the keys of ZeroMQ connections."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import click

from common.security.curve import (
    PUBLIC_SUFFIX,
    SECRET_SUFFIX,
    AuthorizedKeys,
    KeyFileError,
    PublicKey,
    Role,
    new_key,
    public_text,
    read_public,
    secret_text,
    write_new,
)
from common.settings.options import json_option
from common.settings.shared import shared

DEFAULT_DIR: Final = Path("/etc/ratel/keys")
AUTHORIZED: Final = "authorized"
"""The folder within that of keys which balancers are given as --authorized-keys."""

SECRET_MODE: Final = 0o600
PUBLIC_MODE: Final = 0o644
FOLDER_MODE: Final = 0o755
"""Balancers read it as a user of their own; the secret files in it guard themselves."""


_folder_option: Final = shared(
    "cluster",
    "--dir",
    "folder",
    key="keys",
    type=click.Path(file_okay=False, path_type=Path),
    default=str(DEFAULT_DIR),
    envvar="RATEL_KEYS",
    help="Folder of key files.",
)


@click.group()
def keys() -> None:
    """Make, list, allow and revoke the keys of ZeroMQ connections.

    Every rater, gateway and balancer has a key of its own: NAME.key is secret and stays on its host, NAME.pub
    goes to others. A balancer lets in whose NAME.pub lies in its folder of authorized keys; what changes
    there counts within half a second, without a restart.

    \b
    Examples:
      ratel keys new balancer --role balancer     # on the balancer's host
      ratel keys new rater-7 --role rater         # on the rater's; bring rater-7.pub to the balancer's
      ratel keys allow rater-7.pub                # there
      ratel keys revoke rater-7
    """


@keys.command(short_help="Make a key pair.")
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    required=True,
    help="Whose key it is; a client is a gateway, or a program that speaks ZeroMQ.",
)
@_folder_option
@json_option()
def new(name: str, role: str, folder: Path, as_json: bool) -> None:
    """Make a key pair: NAME.key, for its owner's eyes only, and NAME.pub.

    \b
    Example:
      ratel keys new rater-7 --role rater
    """
    secret_path, public_path = (folder / f"{name}{suffix}" for suffix in (SECRET_SUFFIX, PUBLIC_SUFFIX))
    try:
        key = new_key(name, Role(role))
        _make(folder)
        for path in (secret_path, public_path):
            if os.path.lexists(path):
                raise KeyFileError(f"{path} exists, and is left as it is")
        write_new(secret_path, secret_text(key), SECRET_MODE)
        try:
            write_new(public_path, public_text(key), PUBLIC_MODE)
        except KeyFileError:
            secret_path.unlink()  # half a pair would only be in the way
            raise
    except KeyFileError as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        paths = {"secret_file": str(secret_path), "public_file": str(public_path)}
        click.echo(json.dumps(_described(key) | paths))
        return
    click.echo(f"secret  {secret_path}  stays here")
    click.echo(f"public  {public_path}  {key.public}")


@keys.command("list", short_help="Show the keys, and which are authorized.")
@_folder_option
@json_option()
def list_(folder: Path, as_json: bool) -> None:
    """Show the keys in the folder, and which of them are authorized.

    \b
    Example:
      ratel keys list
    """
    authorized = folder / AUTHORIZED
    try:
        if not folder.is_dir():
            raise KeyFileError(f"there is no folder {folder}")
        here = AuthorizedKeys(folder).read()
        allowed = AuthorizedKeys(authorized).read() if authorized.is_dir() else None
    except (KeyFileError, OSError) as error:
        raise click.ClickException(str(error)) from None
    permitted = allowed.keys if allowed else {}
    everybody = sorted((here.keys | permitted).values(), key=lambda key: (key.role, key.name))
    rows = [
        _described(key)
        | {
            "authorized": key.public in permitted,
            "secret-here": key.public in here.keys and (folder / f"{key.name}{SECRET_SUFFIX}").is_file(),
        }
        for key in everybody
    ]
    if as_json:
        click.echo(json.dumps(rows))
    else:
        _show(rows, folder)
    for fault in (*here.errors, *(allowed.errors if allowed else ())):
        click.echo(f"passed over: {fault}", err=True)


def _described(key: PublicKey) -> dict[str, Any]:
    return {"name": key.name, "role": str(key.role), "public": key.public}


def _show(rows: list[dict[str, Any]], folder: Path) -> None:
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        words = " ".join(word for word in ("authorized", "secret-here") if row[word])
        click.echo(f"{row['role']:8}  {row['name']:{width}}  {row['public']}  {words}".rstrip())
    if not rows:
        click.echo(f"no keys in {folder}")


@keys.command(short_help="Let raters and clients in.")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@_folder_option
def allow(files: tuple[Path, ...], folder: Path) -> None:
    """Let raters and clients in: FILES are their .pub files, or names of those in the folder.

    \b
    Example:
      ratel keys allow rater-7.pub
    """
    authorized = folder / AUTHORIZED
    try:
        found = [read_public(_public_file(file, folder)) for file in files]
        for key in found:
            if key.role is Role.BALANCER:
                raise KeyFileError(
                    f"{key.name} is the key of a balancer: raters and clients name it with --curve-server-key"
                )
        _make(folder)
        _make(authorized)
        for key in found:
            click.echo(_allow(key, authorized))
    except KeyFileError as error:
        raise click.ClickException(str(error)) from None


def _allow(key: PublicKey, authorized: Path) -> str:
    path = authorized / f"{key.name}{PUBLIC_SUFFIX}"
    known = AuthorizedKeys(authorized).read().keys.get(key.public)
    if known is not None:
        if known == key:
            return f"{key.role} {key.name} was allowed before"
        raise KeyFileError(f"this key is authorized as {known.role} {known.name}: revoke that first")
    if os.path.lexists(path):
        raise KeyFileError(f"another key of the name {key.name} is authorized ({path}): revoke that first")
    write_new(path, public_text(key), PUBLIC_MODE)
    return f"{key.role} {key.name} is allowed ({path})"


def _public_file(file: Path, folder: Path) -> Path:
    if file.suffix == PUBLIC_SUFFIX:
        return file
    return folder / f"{file}{PUBLIC_SUFFIX}" if file.parent == Path() else file


@keys.command(short_help="Let them in no more.")
@click.argument("names", nargs=-1, required=True)
@_folder_option
def revoke(names: tuple[str, ...], folder: Path) -> None:
    """Let them in no more: balancers drop what comes from them within half a second.

    \b
    Example:
      ratel keys revoke rater-7
    """
    authorized = folder / AUTHORIZED
    paths = {name: authorized / f"{name.removesuffix(PUBLIC_SUFFIX)}{PUBLIC_SUFFIX}" for name in names}
    for name, path in paths.items():
        if path.parent != authorized or not os.path.lexists(path):
            raise click.ClickException(f"{name} is not authorized: there is no {path}")
    for name, path in paths.items():
        try:
            path.unlink()
        except OSError as error:
            raise click.ClickException(f"can't revoke {name}: {error.strerror}") from None
        click.echo(f"{name} is revoked")


def _make(folder: Path) -> None:
    """A folder that only its owner can put keys into."""
    with suppress(FileExistsError):
        try:
            folder.mkdir(parents=True)
            folder.chmod(FOLDER_MODE)
        except FileExistsError:
            raise
        except OSError as error:
            raise KeyFileError(f"can't make the folder {folder}: {error.strerror}") from None
