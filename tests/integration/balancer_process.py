"""A real balancer in a process of its own, on free ports, and small clients to talk to it."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable
from typing import Any, NamedTuple

COMMAND = [sys.executable, "-c", "from balancer.command import balancer; balancer()"]
PATIENCE_S = 60.0


class BalancerProcess:
    def __init__(self, *args: str, popen: dict[str, Any] | None = None, **environment: str) -> None:
        ports = [f"--{name}=127.0.0.1:0" for name in ("jsonrpc", "http", "router")]
        self.process = subprocess.Popen(
            [*COMMAND, *ports, *args],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
            **(popen or {}),
        )
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        try:
            line = self.wait_for_line("listening jsonrpc=")
            found = re.search(r"jsonrpc=\S+:(\d+) http=\S+:(\d+) router=\S+:(\d+)", line)
            assert found, line
        except AssertionError:
            self.__exit__()
            raise
        self.jsonrpc_port, self.http_port, self.router_port = (int(port) for port in found.groups())

    def __enter__(self) -> BalancerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        assert self.process.stderr is not None
        self.process.stderr.close()
        assert not any("Traceback" in line or "traceback" in line for line in self.lines), self.lines

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._changed:
                self.lines.append(line)
                self._changed.notify_all()

    def wait_for_line(self, part: str) -> str:
        def found() -> str | None:
            return next((line for line in self.lines if part in line), None)

        with self._changed:
            line = self._changed.wait_for(found, PATIENCE_S)
        assert line, f"no line with {part!r} in {self.lines}"
        return line

    def connect(self) -> RpcConnection:
        return RpcConnection(self.jsonrpc_port)

    def connect_http(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.http_port), timeout=PATIENCE_S)

    def request(
        self, verb: str, target: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> HttpReply:
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=PATIENCE_S)
        try:
            connection.request(verb, target, body, headers or {})
            response = connection.getresponse()
            text = response.read()
            return HttpReply(response.status, json.loads(text) if text else None, dict(response.getheaders()))
        finally:
            connection.close()

    def get(self, target: str, **headers: str) -> HttpReply:
        return self.request(
            "GET", target, None, {name.replace("_", "-"): text for name, text in headers.items()}
        )


class HttpReply(NamedTuple):
    status: int
    body: Any
    headers: dict[str, str]


def message(number: int, method: str = "GetCost", **params: Any) -> bytes:
    return json.dumps({"id": number, "method": f"Responder.{method}", "params": [params]}).encode() + b"\n"


class RpcConnection:
    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
        self._stream = self.socket.makefile("rb")

    def __enter__(self) -> RpcConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self.socket.close()

    def send(self, messages: Iterable[bytes]) -> None:
        self.socket.sendall(b"".join(messages))

    def call(self, number: int = 1, method: str = "GetCost", **params: Any) -> Any:
        self.send([message(number, method, **params)])
        return self.reply()

    def reply(self) -> Any:
        line = self._stream.readline()
        assert line, "the connection ended"
        return json.loads(line)

    def replies(self, count: int) -> list[Any]:
        return [self.reply() for _ in range(count)]

    def rest(self) -> list[Any]:
        """Everything up to the end of the connection."""
        return [json.loads(line) for line in self._stream]
