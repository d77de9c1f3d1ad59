"""The file of API keys: read by every front, again whenever it has changed, and written by `ratel apikey`.

Who can write it can let anybody in, and who can read it learns what tenants and keys there are: so it is
refused when others than its owner may write it, or others than its group may read it.

It is written as a whole beside the old one and then renamed, so that a front reads either; commands that
write at the same time wait for each other. A front looks for a change twice a second. What it can't read or
understand changes nothing: it goes on with the keys that it has, and says so in its log, once.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from common.security.api_keys import MAX_FILE_BYTES, BadKeyFile, KeyFile, decode_keys, encode_keys
from common.security.keyring import Keyring

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 0.5
"""So soon a new key is good, and a revoked one is not."""

NEW_MODE: Final = 0o600

Stamp = tuple[int, int, int, int]
"""Which file it was, and when it was changed."""


def read_keys(path: Path) -> tuple[KeyFile, Stamp]:
    """Raises BadKeyFile, whose text names the file and says what is wrong with it."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            _check_mode(status)
            text = file.read(MAX_FILE_BYTES + 1)
        if len(text) > MAX_FILE_BYTES:
            raise BadKeyFile(f"it has more than {MAX_FILE_BYTES} bytes")
        return decode_keys(text), _stamp(status)
    except OSError as error:
        raise BadKeyFile(f"can't read the API keys in {path}: {error.strerror}") from None
    except BadKeyFile as error:
        raise BadKeyFile(f"the API keys in {path}: {error}") from None


def _check_mode(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise BadKeyFile("it is no file")
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid not in (0, os.geteuid()):
        raise BadKeyFile(
            f"it belongs to user {status.st_uid}; expected root or the user {os.geteuid()} that reads it"
        )
    if mode & 0o027:
        raise BadKeyFile(f"others may read it, or its group write it (mode {mode:04o}); chmod 600 or 640")


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@contextlib.contextmanager
def change_keys(path: Path) -> Iterator[list[KeyFile]]:
    """The file in a list of one: what is put there is written, unless an error is raised.

    Nobody else changes it meanwhile. Raises BadKeyFile, for what is there and for what can't be written.
    """
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise BadKeyFile(f"can't open the folder {path.parent}: {error.strerror}") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        held = [read_keys(path)[0] if path.exists() else KeyFile()]
        before = held[0]
        yield held
        if held[0] != before:
            try:
                _write(path, encode_keys(held[0]))
                os.fsync(folder)
            except OSError as error:
                raise BadKeyFile(f"can't write the API keys to {path}: {error.strerror}") from None
    finally:
        os.close(folder)


def _write(path: Path, text: bytes) -> None:
    """In place of the old file, with its owner and mode; a new one is for its owner alone."""
    path = path.resolve()  # of a link, what it leads to
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, NEW_MODE)
        with open(fd, "wb") as file:
            if path.exists():
                old = path.stat()
                if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(fd, old.st_uid, old.st_gid)
                os.fchmod(fd, stat.S_IMODE(old.st_mode))
            file.write(text)
            file.flush()
            os.fsync(fd)
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise


class WatchedKeyring:
    """A keyring that follows its file: `look` is to be called often, and is cheap. Raises BadKeyFile."""

    def __init__(self, path: Path) -> None:
        self._path = path
        file, self._stamp = read_keys(path)
        self._failed: str | None = None
        self.keyring = Keyring(file)
        self._say()

    def look(self) -> None:
        """Take the file as it is now, if it has changed. Does not raise: whoever calls it has more to do."""
        try:
            self._take()
        except Exception:  # a mistake in here must not end the looking, or nothing could be revoked any more
            log.exception("a defect in taking the API keys file=%s", self._path)

    def _take(self) -> None:
        try:
            if _stamp(os.stat(self._path)) == self._stamp and self._failed is None:
                return
            file, self._stamp = read_keys(self._path)
        except (OSError, BadKeyFile) as error:
            text = str(error)
            if text != self._failed:
                self._failed = text
                log.error("API keys not taken, the ones before stay valid: %s", text)
            return
        self._failed = None
        self.keyring.replace(file)
        self._say()

    def _say(self) -> None:
        log.info("api keys=%s file=%s", self.keyring.valid(time.time()), self._path)
