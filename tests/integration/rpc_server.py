"""A small real JSON-RPC server for tests of clients: TCP, any port, built on the sans-IO session.

The handler decides what becomes of each call: JSON text is the result, a RatelError the error,
HOLD leaves the call unanswered (for `release`), DROP closes the connection without an answer.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable
from decimal import Decimal
from enum import Enum, auto
from types import TracebackType
from typing import Any

import msgspec

from common.errors import NoRate, RatelError, encode_error
from common.rpc.jsonrpc import Call, Session


class Fate(Enum):
    HOLD = auto()
    DROP = auto()


_decode = msgspec.json.Decoder(float_hook=Decimal).decode
HOLD, DROP = Fate.HOLD, Fate.DROP
Handler = Callable[[str, dict[str, Any]], bytes | RatelError | Fate]


CD = {"CstmId": "vdf", "Subject": "rif", "DestinationPrefix": "0256"}
"""What most calls need."""


def amount(_method: str, cd: dict[str, Any]) -> bytes | RatelError | Fate:
    """A handler: the answer to a call is its Amount, but for nobody."""
    if cd.get("Subject") == "nobody":
        return NoRate(tenant="vdf", subject="nobody", destination="0256")
    return json.dumps(cd.get("Amount", 0), default=float).encode()


class RpcServer:
    def __init__(self, handler: Handler, port: int = 0) -> None:
        self.handler = handler
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self.connections = 0
        self.turn_away = 0
        """So many connections more are closed as soon as they are accepted."""
        self._lock = threading.Condition()
        self._open: dict[socket.socket, Session] = {}
        self._held: list[tuple[socket.socket, int]] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", port), reuse_port=False)
        self.address: tuple[str, int] = self._listener.getsockname()
        self._start(self._accept)

    def __enter__(self) -> RpcServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stops listening, and cuts every connection."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        accepting, *_ = self._threads
        accepting.join()  # what it has accepted by then is there to be cut, and nothing comes after it
        self.cut()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def cut(self) -> None:
        """Cuts every connection."""
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def release(self, result: bytes) -> None:
        """Answers every call held back, the last one first."""
        with self._lock:
            held, self._held = self._held, []
            for connection, slot in reversed(held):
                session = self._open.get(connection)
                if session is not None:
                    session.answer(slot, result)
                    connection.sendall(session.take_output())

    def wait_for_calls(self, count: int) -> None:
        """Until this many calls have been handled since the start."""
        with self._lock:
            assert self._lock.wait_for(lambda: len(self.seen) >= count, timeout=60)

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with self._lock:
                    self.connections += 1
                    if self.turn_away:
                        self.turn_away -= 1
                        connection.close()
                        continue
                    self._open[connection] = Session()
                self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        session = self._open[connection]
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(65536):
                with self._lock:
                    calls = session.feed(data)
                    while session.more:
                        calls += session.feed(b"")
                    fates = [self._handle(connection, session, call) for call in calls]
                    output = session.take_output()
                    self._lock.notify_all()
                if not all(fates):
                    break
                connection.sendall(output)
        with self._lock:
            del self._open[connection]

    def _handle(self, connection: socket.socket, session: Session, call: Call) -> bool:
        descriptor = _decode(call.params)
        self.seen.append((call.method.name, descriptor))
        outcome = self.handler(call.method.name, descriptor)
        if isinstance(outcome, bytes):
            session.answer(call.slot, outcome)
        elif isinstance(outcome, RatelError):
            session.fail(call.slot, encode_error(outcome))
        elif outcome is HOLD:
            self._held.append((connection, call.slot))
        return outcome is not DROP
