"""CURVE keys: who may speak ZeroMQ to whom, and the files that hold them.

Every process has a key pair of its own: `NAME.key` holds both halves and stays where it was made, `NAME.pub`
holds the public one and is what others are given. Both are TOML of three or four lines. A key has a role, so
that one stolen from a client does not serve to join as a rater, which would be given everybody's requests.

A balancer lets in the keys whose `.pub` files lie in a folder. Putting a file there and removing it is all
there is to allowing and revoking; `ratel keys` does both, atomically.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
import time
import tomllib
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple

import zmq
from zmq.utils import z85

SECRET_SUFFIX: Final = ".key"
PUBLIC_SUFFIX: Final = ".pub"

KEY_CHARS: Final = 40
"""32 bytes in Z85, the notation that ZeroMQ takes keys in (ZeroMQ RFC 32)."""

MAX_FILE_BYTES: Final = 4096
"""A key file has 300; more is something else, and need not be read."""

MAX_AUTHORIZED: Final = 1000
"""Files in a folder of keys: all of them are looked at twice a second."""

SAME_MOMENT_NS: Final = 1_000_000_000
"""Two changes of a folder this close together may leave it with the same time: a tick of the slowest clocks
of file systems."""

LOOK_AT_FILES_NS: Final = 5_000_000_000
"""How late it may be noticed that a file was changed in its place. One that is put there, renamed or removed
changes the folder, which is noticed at once."""

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Of a key: it becomes part of file names and log lines."""


class Role(StrEnum):
    BALANCER = "balancer"
    RATER = "rater"
    CLIENT = "client"
    """A gateway that is a process of its own, or a program with `common.zmq_client`."""


class KeyFileError(Exception):
    """A key file, or a folder of them, is not as it must be; the text names it and says how."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    name: str
    role: Role
    public: str
    """KEY_CHARS characters."""
    file: str = field(default="", compare=False, repr=False, kw_only=True)
    """Where it was read."""

    def __str__(self) -> str:
        return self.file or self.name


@dataclass(frozen=True, slots=True)
class SecretKey(PublicKey):
    secret: str = field(repr=False)

    def without_secret(self) -> PublicKey:
        return PublicKey(self.name, self.role, self.public)


def new_key(name: str, role: Role) -> SecretKey:
    """Raises KeyFileError for a name that is none."""
    _check_name(name, "the key's name")
    public, secret = zmq.curve_keypair()
    return SecretKey(name, role, public.decode(), secret.decode())


# --- files ------------------------------------------------------------------------------------


def public_text(key: PublicKey) -> str:
    return f"# Public key of a {key.role}. Not a secret.\n{_lines(key)}"


def secret_text(key: SecretKey) -> str:
    head = f"# Secret key of a {key.role}: whoever reads it can pass for that one. Copy the .pub file only.\n"
    return f'{head}{_lines(key)}secret-key = "{key.secret}"\n'


def _lines(key: PublicKey) -> str:
    # None of the three holds a quote or a backslash: see NAME, and the alphabet of Z85.
    return f'name = "{key.name}"\nrole = "{key.role}"\npublic-key = "{key.public}"\n'


def write_new(path: Path, text: str, mode: int) -> None:
    """Whole or not at all, and never over a file that is there. Raises KeyFileError."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        number = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(number, "w") as file:
            os.fchmod(number, mode)  # whatever the umask is
            file.write(text)
            file.flush()
            os.fsync(number)
        os.link(draft, path)
    except FileExistsError:
        raise KeyFileError(f"{path} exists, and is left as it is") from None
    except OSError as error:
        raise KeyFileError(f"can't write {path}: {error.strerror}") from None
    finally:
        with suppress(OSError):
            draft.unlink()


def read_secret(path: Path, role: Role) -> SecretKey:
    """The key pair in a file that nobody else may read. Raises KeyFileError."""
    text, status = _read(path)
    # Group may read what root owns: so it is with the credentials that systemd hands to a service.
    others = 0o037 if status.st_uid == 0 else 0o077
    if status.st_mode & others:
        mode = stat.S_IMODE(status.st_mode)
        raise KeyFileError(f"{path} is open to others (mode {mode:04o}): chmod 600 {path}")
    key = _parse(path, text, SecretKey)
    assert isinstance(key, SecretKey)
    _check_role(path, key, role)
    return key


def read_public(path: Path, role: Role | None = None) -> PublicKey:
    """Raises KeyFileError."""
    text, status = _read(path)
    if status.st_mode & 0o022:
        raise KeyFileError(f"{path} can be changed by others (mode {stat.S_IMODE(status.st_mode):04o})")
    key = _parse(path, text, PublicKey)
    if role is not None:
        _check_role(path, key, role)
    return key


def _read(path: Path) -> tuple[str, os.stat_result]:
    try:
        # Without waiting for a writer, should it be a pipe.
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(number, "rb") as file:
            status = os.fstat(number)
            if not stat.S_ISREG(status.st_mode):
                raise KeyFileError(f"{path} is not a file")
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise KeyFileError(f"can't read {path}: {error.strerror}") from None
    if len(content) > MAX_FILE_BYTES:
        raise KeyFileError(f"{path} is not a key file: it has more than {MAX_FILE_BYTES} bytes")
    try:
        return content.decode(), status
    except UnicodeDecodeError:
        raise KeyFileError(f"{path} is not a key file: it is not text") from None


def _parse(path: Path, text: str, kind: type[PublicKey]) -> PublicKey:
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError:  # its message may quote the line, which may be the secret
        raise KeyFileError(f'{path} is not a key file: expected lines such as role = "rater"') from None
    wanted = ["name", "role", "public-key"] + (["secret-key"] if kind is SecretKey else [])
    for word in wanted:
        if not isinstance(values.get(word), str):
            hint = "; is it the .pub file?" if word == "secret-key" else ""
            raise KeyFileError(f"{path} has no {word}{hint}")
    if kind is PublicKey and "secret-key" in values:
        raise KeyFileError(f"{path} holds a secret key: only the .pub file is for others")
    unknown = sorted(values.keys() - wanted)
    if unknown:
        raise KeyFileError(f"{path} has a line that is not known: {unknown[0]}")
    _check_name(values["name"], f"the name in {path}")
    if values["role"] not in set(Role):
        raise KeyFileError(f"{path} has the role {values['role']!r}, expected one of {', '.join(Role)}")
    _check_key(path, "public-key", values["public-key"])
    name, role, public = values["name"], Role(values["role"]), values["public-key"]
    if kind is PublicKey:
        return PublicKey(name, role, public, file=str(path))
    _check_key(path, "secret-key", values["secret-key"])
    if zmq.curve_public(values["secret-key"].encode()).decode() != public:
        raise KeyFileError(f"{path} is damaged: its public-key is not that of its secret-key")
    return SecretKey(name, role, public, values["secret-key"], file=str(path))


def _check_name(name: str, what: str) -> None:
    if not NAME.fullmatch(name):
        raise KeyFileError(
            f"{what} must be 1 to 64 letters, digits, dots, dashes and underscores, and begin with a "
            f"letter or a digit, not {name!r}"
        )


def _check_key(path: Path, what: str, text: str) -> None:
    try:
        valid = len(text) == KEY_CHARS and len(z85.decode(text.encode())) == 32
    except Exception:  # it raises several unrelated types on text that is not Z85
        valid = False
    if not valid:
        raise KeyFileError(f"{path} is damaged: its {what} is not {KEY_CHARS} characters of Z85")


def _check_role(path: Path, key: PublicKey, role: Role) -> None:
    if key.role is not role:
        raise KeyFileError(f"{path} is the key of a {key.role}, and that of a {role} is needed")


# --- folders ----------------------------------------------------------------------------------


class Authorized(NamedTuple):
    keys: dict[str, PublicKey]
    """By public key."""
    errors: list[str]
    """What is wrong with files that were passed over: their keys are not authorized."""


class AuthorizedKeys:
    """The public keys in a folder, read again where something has changed.

    While the folder is as it was, its files are looked at now and then only: that takes some µs each.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._seen: dict[str, tuple[tuple[int, ...], PublicKey | str]] = {}
        """By file name: how the file was, and its key, or what is wrong with it."""
        self._found: Authorized | None = None
        self._shape: tuple[int, ...] = ()
        """Of the folder when all files were looked at, which was at `_looked_ns`."""
        self._looked_ns = 0

    def read(self) -> Authorized:
        """Raises KeyFileError when the folder itself can't be relied upon."""
        now_ns = time.time_ns()
        try:
            status = self.folder.stat()
            shape = (status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_mode)
            if (
                self._found is not None
                and shape == self._shape
                and self._looked_ns - status.st_mtime_ns > SAME_MOMENT_NS
                and 0 <= now_ns - self._looked_ns < LOOK_AT_FILES_NS
            ):
                return self._found
            self._found = None
            # One more file than there may be: that is enough to know.
            names = sorted(name for name in os.listdir(self.folder) if _is_public_name(name))
        except OSError as error:
            raise KeyFileError(f"can't read the folder of keys {self.folder}: {error.strerror}") from None
        if status.st_mode & 0o022:
            mode = stat.S_IMODE(status.st_mode)
            raise KeyFileError(
                f"others may put keys into {self.folder} (mode {mode:04o}): chmod go-w {self.folder}"
            )
        if len(names) > MAX_AUTHORIZED:
            raise KeyFileError(f"{self.folder} holds more than {MAX_AUTHORIZED} keys")
        before, self._seen = self._seen, {}
        folder = os.fspath(self.folder)
        for name in names:
            self._look_at(f"{folder}/{name}", name, before.get(name))
        self._found, self._shape, self._looked_ns = self._sort_out(), shape, now_ns
        return self._found

    def _look_at(self, path: str, name: str, before: tuple[tuple[int, ...], PublicKey | str] | None) -> None:
        try:
            status = os.stat(path)
        except OSError as error:
            self._seen[name] = ((), f"can't read {path}: {error.strerror}")
            return
        shape = (status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size)
        if before is not None and before[0] == shape:
            self._seen[name] = before
            return
        try:
            self._seen[name] = (shape, read_public(Path(path)))
        except KeyFileError as error:
            self._seen[name] = (shape, str(error))

    def _sort_out(self) -> Authorized:
        found = Authorized({}, [])
        files: dict[str, str] = {}
        for name, (_, key) in self._seen.items():
            if isinstance(key, str):
                found.errors.append(key)
            elif key.public in files:
                # Which of the two counts, that is, which role, must not be a matter of order.
                found.keys.pop(key.public, None)
                found.errors.append(f"{self.folder / name} holds the same key as {files[key.public]}")
            else:
                files[key.public] = name
                found.keys[key.public] = key
        return found


def _is_public_name(name: str) -> bool:
    return name.endswith(PUBLIC_SUFFIX) and not name.startswith(".")
