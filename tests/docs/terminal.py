"""A terminal in which a page's commands are typed: a bash in a home of its own, which prints to a terminal.

The ports of the page are free ones in truth: they are set in the environment, where the commands take them
from, and put in place of the page's wherever it names them; what is printed is translated back. The home
holds links to what a clone has, and a `.venv` that `make` finds up to date, or is a fresh clone.
"""

from __future__ import annotations

import os
import pty
import random
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final

from tests.docs.blocks import compact

ROOT: Final = Path(__file__).resolve().parents[2]
CLONE: Final = (
    "Makefile",
    "balancer",
    "common",
    "deploy",
    "docs",
    "loadtests",
    "pyproject.toml",
    "rater",
    "requirements.lock",
    "tests",
)
SHOWN_HOME: Final = "/home/you/ratel"
"""What pages call the folder of the clone."""
PORTS: Final = {"2001": "RATEL_JSONRPC", "8000": "RATEL_HTTP", "2000": "RATEL_ROUTER"}
"""Where a cluster listens by default."""
MORE_PORTS: Final = ("2002", "2003", "2010", "8001", "8002", "9090", "9101")
"""Of second balancers and the like; a command gets them as the page gives them."""
UNASSIGNED: Final = (10_000, 32_000)
WITHIN_S: Final = 60.0
_ADDRESS: Final = re.compile(rf'(127\.0\.0\.1(?::|", ))({"|".join((*PORTS, *MORE_PORTS))})\b')
COLUMNS: Final = "92"
"""So wide are tables, and so wide is the site's text."""
_ESCAPES: Final = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def free_ports(count: int) -> list[str]:
    """Below those that the kernel gives to whoever asks for any port: nobody else takes them before the
    page's commands do, nor while a cluster is stopped and started again."""
    ports: list[str] = []
    while len(ports) < count:
        port = random.randrange(*UNASSIGNED)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            if str(port) not in ports:
                ports.append(str(port))
    return ports


class Terminal:
    def __init__(self, fresh_clone: bool = False) -> None:
        # Not pytest's folder: the path of a Unix socket may have 107 bytes.
        self.home = Path(tempfile.mkdtemp(prefix="ratel-docs-"))
        self._fresh_clone = fresh_clone
        if fresh_clone:
            subprocess.run(["git", "clone", "--quiet", str(ROOT), str(self.home)], check=True)
        else:
            self._link()
        self.ports = dict(zip((*PORTS, *MORE_PORTS), free_ports(len(PORTS) + len(MORE_PORTS)), strict=True))
        self._printed, terminal = pty.openpty()
        try:
            self._bash = subprocess.Popen(
                ["bash", "--noprofile", "--norc"],
                stdin=subprocess.PIPE,
                stdout=terminal,
                stderr=terminal,
                cwd=self.home,
                env=self._environment(),
                start_new_session=True,
            )
        finally:
            os.close(terminal)
        self._count = 0
        self._others: list[tuple[subprocess.Popen[bytes], int]] = []

    def _link(self) -> None:
        for name in CLONE:
            (self.home / name).symlink_to(ROOT / name)
        (self.home / ".venv").mkdir()
        (self.home / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
        (self.home / ".venv" / ".ready").touch()

    def _environment(self) -> dict[str, str]:
        path = os.environ["PATH"]
        if not self._fresh_clone:
            path = f"{Path(sys.executable).parent}:{path}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RATEL_")}
        ports = {name: f"127.0.0.1:{self.ports[port]}" for port, name in PORTS.items()}
        return (
            kept
            | ports
            | {
                "RATEL_ADDRESS": ports["RATEL_JSONRPC"],
                "RATEL_URL": f"http://{ports['RATEL_HTTP']}",
                "RATEL_CONFIG": os.devnull,
                "HOME": str(self.home),
                "XDG_DATA_HOME": "",
                "PATH": path,
                "TERM": "dumb",
                "COLUMNS": COLUMNS,
                "LINES": "40",
                "LANG": "C.UTF-8",
                "LC_ALL": "C.UTF-8",
                "TZ": "UTC",
            }
        )

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Whatever a page has left running ends: all of it is of a session of these terminals."""
        with suppress(OSError):
            assert self._bash.stdin is not None
            self._bash.stdin.close()
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in self._session():
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            until = time.monotonic() + 10
            while self._session() and time.monotonic() < until:
                with suppress(subprocess.TimeoutExpired):
                    self._bash.wait(0.05)
                for process, printed in self._others:
                    process.poll()
                    self._read(0, printed)
                self._read(0)
        self._bash.wait(10)
        for process, printed in self._others:
            process.wait(10)
            os.close(printed)
        os.close(self._printed)
        shutil.rmtree(self.home, ignore_errors=True)

    def _session(self) -> list[int]:
        """The living processes of these terminals."""
        sessions = {self._bash.pid, *(process.pid for process, _ in self._others)}
        found = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError, ValueError, IndexError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) in sessions and fields[0] != "Z":
                    found.append(int(entry.name))
        return found

    def here(self, text: str) -> str:
        """The page's text with the ports of this terminal."""
        return _ADDRESS.sub(lambda match: match[1] + self.ports[match[2]], text)

    def as_shown(self, text: str) -> str:
        """What was printed, with the page's ports and folder."""
        for shown, port in self.ports.items():
            text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{shown}")
        text = _ESCAPES.sub("", text).replace(str(self.home), SHOWN_HOME)
        # Of a line that was written over, as progress bars are, the last state stays.
        text = re.sub(r"\A(?:[ \r]*\n)+", "", text).rstrip()
        lines = [line.rstrip().rpartition("\r")[2] for line in text.split("\n")]
        return "".join(f"{line}\n" for line in lines) if text else ""

    def write(self, name: str, text: str) -> None:
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.here(text))

    def type(self, command: str, within_s: float = WITHIN_S) -> tuple[str, int]:
        """What the command prints, as the page would show it, and its exit code."""
        self._count += 1
        end = f"--- end {self._count} "
        assert self._bash.stdin is not None
        words = f"{self.here(command)}\n"
        quoted = "'" + words.replace("'", "'\\''") + "'"
        self._bash.stdin.write(f"eval {quoted} </dev/null; printf '\\n%s%s ---\\n' '{end}' $?\n".encode())
        self._bash.stdin.flush()
        seen = ""
        until = time.monotonic() + within_s
        while not (found := re.search(rf"\r?\n{end}(\d+) ---\r\n", seen)):
            assert time.monotonic() < until, f"{command!r} does not end; it has printed {seen!r}"
            seen += self._read(0.5)
        return self.as_shown(seen[: found.start()]), int(found[1])

    def start(self, command: str, wanted: str) -> str:
        """What a command that goes on prints, as soon as its beginning matches, in a terminal of its own."""
        printed, terminal = pty.openpty()
        words = ["bash", "--noprofile", "--norc", "-c", self.here(command)]
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=terminal,
                stderr=terminal,
                cwd=self.home,
                env=self._environment(),
                start_new_session=True,
            )
        finally:
            os.close(terminal)
        self._others.append((process, printed))
        seen = ""
        until = time.monotonic() + WITHIN_S
        while not (found := re.match(wanted, compact(self.as_shown(seen)))):
            assert time.monotonic() < until, f"{command!r} has printed no more than {seen!r}"
            assert process.poll() is None, f"{command!r} ended; it had printed {seen!r}"
            seen += self._read(0.5, printed)
        return found[0]

    def _read(self, timeout_s: float, printed: int | None = None) -> str:
        printed = self._printed if printed is None else printed
        if not select.select([printed], [], [], timeout_s)[0]:
            return ""
        try:
            return os.read(printed, 65536).decode(errors="replace")
        except OSError:  # the last process that had the terminal has ended
            return ""
