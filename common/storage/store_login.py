"""Passwords of stores: taken from files, put into the store's URL, and kept out of what is shown.

A password on a command line can be read by everybody on the host, so it comes from a file, such as
a credential of systemd, and meets the URL inside the process.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, quote, urlsplit

MAX_SECRET_BYTES: Final = 4_096
"""No password is longer; a file that is was not meant."""

MASK: Final = "***"

_EMBEDDED: Final = "embedded:"
_SENTINEL: Final = ("redis+sentinel://", "rediss+sentinel://")

_LOGIN: Final = re.compile(r"(?<=://)([^:/@]*):.*@", re.DOTALL)
"""Up to the last @: a password that was not encoded may hold anything."""
_OPTION: Final = re.compile(r"(?<=[?&])([^=&]*passw[^=&]*)=[^&]*", re.IGNORECASE)


class LoginError(ValueError):
    """The text says what is wrong, and holds no secret."""


def read_secret(file: Path) -> str:
    """The one line in a file. Raises LoginError."""
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_SECRET_BYTES + 1)
    except OSError as error:
        raise LoginError(f"can't read {file}: {error.strerror}") from None
    try:
        secret = content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise LoginError(f"{file} is not UTF-8") from None
    if len(content) > MAX_SECRET_BYTES or not secret or "\n" in secret:
        raise LoginError(f"{file} has to hold one line of at most {MAX_SECRET_BYTES} bytes, the password")
    return secret


def with_login(url: str, *, password: str = "", sentinel_password: str = "") -> str:
    """The URL with a password of the store, or of the sentinels, in it. Raises LoginError."""
    if url.startswith(_EMBEDDED):
        raise LoginError("the embedded store has no password: say which store by --store")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise LoginError("the store's URL is not one") from None
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if sentinel_password:
        if not url.startswith(_SENTINEL):
            raise LoginError(f"only a store of {_SENTINEL[0]} has sentinels")
        if "sentinel_password" in options:
            raise LoginError("the store's URL has a password of the sentinels in it already")
        query = f"{parts.query}&" if parts.query else ""
        parts = parts._replace(query=f"{query}sentinel_password={quote(sentinel_password, safe='')}")
    if password:
        login, _, hosts = parts.netloc.rpartition("@")
        user, colon, _ = login.partition(":")
        if colon or "password" in options:
            raise LoginError("the store's URL has a password in it already")
        parts = parts._replace(netloc=f"{user}:{quote(password, safe='')}@{hosts}")
    return parts.geturl()


def mask_url(text: str) -> str:
    """What may be shown of a text that may be a URL: its passwords are replaced by ***."""
    return _OPTION.sub(rf"\1={MASK}", _LOGIN.sub(rf"\1:{MASK}@", text))
