"""Whole clusters, as a user starts them: `ratel up` in a process of its own, on free ports."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from common.client import JSONClient

ROOT = Path(__file__).resolve().parents[2]
SAMPLE_TARIFF = ROOT / "deploy" / "sample-tariff"
RATEL = [sys.executable, "-m", "common.cli"]
START_WITHIN_S = 60.0


def address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


class Process:
    """A `ratel` command whose lines on stdout are collected and can be waited for."""

    def __init__(self, *args: str) -> None:
        self.process = subprocess.Popen(
            [*RATEL, *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def wait_for_line(self, beginning: str) -> str:
        """The first line that begins so, once it is there."""

        def found() -> str | None:
            return next((line for line in self.lines if line.strip().startswith(beginning)), None)

        with self._changed:
            self._changed.wait_for(
                lambda: found() is not None or not self._reader.is_alive(), timeout=START_WITHIN_S
            )
        line = found()
        assert line is not None, f"no line {beginning!r} in {self.lines}"
        return line.strip()

    def terminate(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.terminate()
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(60)
        self._reader.join(10)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        self.wait()


class Cluster:
    """`ratel up`, and ways to talk to it."""

    def __init__(self, data: Path, *args: str, ports: tuple[int, int, int] = (0, 0, 0)) -> None:
        jsonrpc, http, router = ports
        self.data = data
        self.up = Process(
            "up",
            "--data",
            str(data),
            "--jsonrpc",
            f"127.0.0.1:{jsonrpc}",
            "--http",
            f"127.0.0.1:{http}",
            "--router",
            f"127.0.0.1:{router}",
            *args,
        )

    def wait_ready(self) -> None:
        self.up.wait_for_line("ready")
        self.store_url = self.up.wait_for_line("store").split()[1]
        self.jsonrpc = address(self.up.wait_for_line("json-rpc").split()[1])
        self.http = self.up.wait_for_line("http ").split()[1]
        self.router = self.up.wait_for_line("router").split()[1].rstrip(",")

    def client(self, **options: Any) -> JSONClient:
        return JSONClient(self.jsonrpc, **options)

    def get(self, path: str, headers: dict[str, str] | None = None, **query: Any) -> tuple[int, Any]:
        """HTTP status and decoded body."""
        return self.request("GET", f"{path}?{urlencode(query)}" if query else path, headers=headers)

    def request(
        self, verb: str, target: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        request = Request(self.http + target, data=body, method=verb, headers=headers or {})
        try:
            with urlopen(request, timeout=30) as response:
                return response.status, json.loads(response.read() or b"null")
        except HTTPError as error:
            with error:
                return error.code, json.loads(error.read() or b"null")

    def processes(self, part: str = "") -> list[int]:
        """Process ids of the children whose command line holds `part`."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if parent == self.up.process.pid and part in words:
                    found.append(int(entry.name))
        return found

    def rater_pids(self) -> list[int]:
        return self.processes("common.cli rater")

    def stop(self) -> None:
        """Also of one that has ended by itself nothing stays open, for which another test would be blamed."""
        if self.up.process.poll() is None:
            code = self.up.terminate()
            assert code == 0, self.up.lines
        else:
            self.up.wait()

    def kill_everything(self) -> None:
        """kill -9 of every process, the parent first, so that it can restart nothing."""
        pids = [self.up.process.pid, *self.processes()]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.up.wait()


StartCluster = Callable[..., Cluster]


def is_free(port: int) -> bool:
    try:
        with socket.create_server(("127.0.0.1", port)):
            return True
    except OSError:
        return False
