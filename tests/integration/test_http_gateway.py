"""The HTTP gateway in this process: how many connections it has, and that it looks after them."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, cast

import pytest
import uvloop

from balancer.client_limits import DEFAULT_CLIENT_LIMITS, ClientLimits
from balancer.http import gateway as http_gateway
from balancer.http.gateway import HttpGateway
from balancer.router import Router

REQUEST = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
Address = tuple[str, int]


def with_gateway(
    act: Callable[[HttpGateway, Address], Awaitable[None]],
    limits: ClientLimits = DEFAULT_CLIENT_LIMITS,
    drain_s: float = 30,
) -> None:
    async def run() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        gateway = HttpGateway(cast(Router, SimpleNamespace(refused=Counter())), drain_s, limits=limits)
        await gateway.open(listener)
        try:
            await act(gateway, listener.getsockname())
        finally:
            await gateway.stop_accepting()
            await gateway.drain()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


async def ask(address: Address) -> tuple[bytes, asyncio.StreamReader, asyncio.StreamWriter]:
    """The status of a first request, on a connection that is left open."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(REQUEST)
    head = await reader.readuntil(b"\r\n\r\n")
    return head[9:12], reader, writer


def test_one_connection_too_many_is_refused_and_there_is_room_again_when_one_has_ended(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def act(gateway: HttpGateway, address: Address) -> None:
        first, others = await ask(address), [await ask(address) for _ in range(2)]
        assert [first[0], *(status for status, _, _ in others)] == [b"200", b"200", b"503"]
        assert b"more than 2 connections" in await others[1][1].read()
        for _, _, writer in (first, others[1]):
            writer.close()
        while len(gateway._connections) > 1:
            await asyncio.sleep(0.001)
        status, _, writer = await ask(address)
        assert status == b"200"
        for each in (writer, others[0][2]):
            each.close()

    with caplog.at_level(logging.WARNING):
        with_gateway(act, ClientLimits(max_connections=2))
    assert "connection refused limit=2" in caplog.text


def test_it_looks_after_its_connections_and_the_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_gateway, "SWEEP_S", 0.01)
    looked: list[Any] = []
    monkeypatch.setattr(http_gateway.Connection, "check", lambda each, now_s: looked.append(each))

    async def act(gateway: HttpGateway, address: Address) -> None:
        _, _, writer = await ask(address)
        gateway.date = b"long ago"
        while len(looked) < 2 or gateway.date == b"long ago":
            await asyncio.sleep(0.001)
        assert set(looked) == gateway._connections
        writer.close()

    with_gateway(act)


def test_who_does_not_end_is_cut_when_the_time_is_up() -> None:
    async def act(gateway: HttpGateway, address: Address) -> None:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(REQUEST[:9])
        while not gateway._connections:
            await asyncio.sleep(0.001)
        await gateway.stop_accepting()
        await gateway.drain()
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        assert not gateway._connections
        writer.close()

    with_gateway(act, drain_s=0.05)
