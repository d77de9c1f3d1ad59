"""A proxy between two parts, to be a bad network: cut in one direction or both, slow, or gone.

A direction that is cut is not read any more, so nothing that was sent is lost: it waits, as with a
network that delivers again once it heals, and neither data nor the end of a connection comes through
meanwhile. `break_connections` resets all there are; `refuse` also takes no new ones.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from common.addresses import Address

T = TypeVar("T")
CHUNK_BYTES = 65_536
Target = Address | Path
"""TCP, or a unix socket."""


class _Direction:
    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.delay_s = 0.0


class Proxy:
    """Listens on a free loopback port, or on the unix socket `listen`; runs in a thread of its own."""

    def __init__(self, target: Callable[[], Target] | Target, listen: Path | None = None) -> None:
        self._target: Callable[[], Target] = target if callable(target) else lambda: target
        self._listen = listen
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._refusing = False
        self.address = Address("127.0.0.1", 0)
        self._run(self._start())

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _start(self) -> None:
        self._towards_target, self._towards_client = _Direction(), _Direction()
        if self._listen is not None:
            self._server = await asyncio.start_unix_server(self._serve, self._listen)
        else:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            self.address = Address("127.0.0.1", int(self._server.sockets[0].getsockname()[1]))

    # --- what a test does to the network -----------------------------------------------------

    def cut(self, *, towards_target: bool = True, towards_client: bool = True) -> None:
        """Deliver nothing any more in these directions."""

        async def work() -> None:
            for chosen, direction in (
                (towards_target, self._towards_target),
                (towards_client, self._towards_client),
            ):
                if chosen:
                    direction.open.clear()

        self._run(work())

    def heal(self) -> None:
        """Deliver everything again, also what had to wait, and take connections."""

        async def work() -> None:
            self._refusing = False
            for direction in (self._towards_target, self._towards_client):
                direction.delay_s = 0.0
                direction.open.set()

        self._run(work())

    def slow(self, delay_s: float) -> None:
        """Every piece of data takes so much longer, each way."""

        async def work() -> None:
            self._towards_target.delay_s = self._towards_client.delay_s = delay_s

        self._run(work())

    def break_connections(self) -> None:
        """Reset all connections, at both ends."""

        async def work() -> None:
            for writer in list(self._writers):
                _reset(writer)

        self._run(work())

    def refuse(self) -> None:
        """Reset all connections and each new one, until `heal`."""

        async def work() -> None:
            self._refusing = True

        self._run(work())
        self.break_connections()

    def close(self) -> None:
        async def work() -> None:
            self._server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for writer in list(self._writers):
                _reset(writer)

        self._run(work())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- one connection ------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        far: asyncio.StreamWriter | None = None
        try:
            if self._refusing:
                return
            far_reader, far = await _connect(self._target())
            self._writers.add(far)
            await asyncio.gather(
                _pump(reader, far, self._towards_target), _pump(far_reader, writer, self._towards_client)
            )
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for end in (writer, far):
                if end is not None:
                    _reset(end)
                    self._writers.discard(end)
            self._tasks.discard(task)


def _connect(target: Target) -> Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    if isinstance(target, Path):
        return asyncio.open_unix_connection(target)
    return asyncio.open_connection(target.host, target.port)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: _Direction) -> None:
    while True:
        await direction.open.wait()
        data = await reader.read(CHUNK_BYTES)
        if direction.delay_s:
            await asyncio.sleep(direction.delay_s)
        await direction.open.wait()  # it may have been cut while this waited for data
        if not data:
            if writer.can_write_eof():
                writer.write_eof()
            return
        writer.write(data)
        await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """End it at once; over TCP with a reset."""
    with suppress(OSError, AttributeError):
        sock = writer.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
