"""An `AsyncClient` that is waited for: the names and manners of `JSONClient`, its loop in its own thread.

So one test can say what both clients do.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any

from common.async_client import AsyncClient, Pending


class WaitingPending:
    def __init__(self, client: WaitingClient, pending: Pending) -> None:
        self._client = client
        self._pending = pending

    @property
    def request_id(self) -> str:
        return self._pending.request_id

    @property
    def done(self) -> bool:
        return self._pending.done

    def result(self, timeout_s: float | None = None) -> Any:
        return self._client.wait(self._pending.result(timeout_s))


class WaitingClient:
    new_loop = staticmethod(asyncio.new_event_loop)

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        self.client = AsyncClient(*arguments, **settings)
        self.loop = self.new_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def __enter__(self) -> WaitingClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wait(self.client.close())
        self.wait(self.loop.shutdown_default_executor())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def wait(self, what: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self.loop).result()

    def call(self, *arguments: Any, **settings: Any) -> Any:
        return self.wait(self.client.call(*arguments, **settings))

    def submit(self, *arguments: Any) -> WaitingPending:
        return WaitingPending(self, self.wait(self.client.submit(*arguments)))

    def call_many(self, *arguments: Any, **settings: Any) -> Any:
        return self.wait(self.client.call_many(*arguments, **settings))

    def close(self) -> None:
        self.wait(self.client.close())
