"""What the client of asyncio has beside the other: tasks that share it, cancellation, one loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

import pytest
import uvloop

from common.async_client import AsyncClient, Link
from common.errors import DeadlineExceeded, NoRate, RatelError
from tests.integration.rpc_server import CD, HOLD, Fate, RpcServer

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    def in_new_loop(what: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(what)

    return in_new_loop


def held_if_1(_method: str, cd: dict[str, Any]) -> bytes | RatelError | Fate:
    if cd.get("Subject") == "nobody":
        return NoRate(tenant="vdf", subject="nobody", destination="0256")
    return HOLD if cd["Amount"] == 1 else json.dumps(cd["Amount"]).encode()


@pytest.fixture
def server() -> Iterator[RpcServer]:
    with RpcServer(held_if_1) as running:
        yield running


def seen(server: RpcServer, count: int) -> Awaitable[None]:
    return asyncio.to_thread(server.wait_for_calls, count)


def test_tasks_share_one_connection_and_one_write(
    server: RpcServer, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    send = Link.send

    def count(link: Link) -> None:
        sent.append(len(link.outbox))
        send(link)

    monkeypatch.setattr(Link, "send", count)

    async def main() -> None:
        async with AsyncClient(server.address) as client:
            await client.call("DebitSMS", CD | {"Amount": 7})
            del sent[:]
            amounts = range(2, 202)
            calls = (client.call("DebitSMS", CD | {"Amount": n}) for n in amounts)
            assert await asyncio.gather(*calls) == list(amounts)

    run(main())
    assert server.connections == 1
    assert len(sent) == 1


def test_a_cancelled_call_leaves_the_others_and_the_connection(server: RpcServer, run: Run) -> None:
    async def main() -> None:
        async with AsyncClient(server.address) as client:
            cancelled = asyncio.create_task(client.call("DebitSMS", CD | {"Amount": 1}))
            other = asyncio.create_task(client.call("DebitBalance", CD | {"Amount": 1}))
            await seen(server, 2)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            assert len(client._waiting) == 1
            assert await client.call("DebitSMS", CD | {"Amount": 3}) == 3
            server.release(b"5")
            assert await other == 5
            with pytest.raises(NoRate):
                await client.call("GetCost", CD | {"Subject": "nobody"})
            assert not client._waiting

    run(main())
    assert server.connections == 1


def test_a_cancelled_call_is_not_sent_again(server: RpcServer, run: Run) -> None:
    async def main() -> None:
        async with AsyncClient(server.address) as client:
            cancelled = asyncio.create_task(client.call("DebitSMS", CD | {"Amount": 1}))
            other = asyncio.create_task(client.call("DebitBalance", CD | {"Amount": 1}))
            await seen(server, 2)
            cancelled.cancel()
            server.handler = lambda _, cd: b"4"
            server.cut()
            assert await other == 4

    run(main())
    assert [name for name, _ in server.seen].count("DebitSMS") == 1
    assert [name for name, _ in server.seen].count("DebitBalance") == 2


def test_calls_cancelled_at_any_moment_harm_nobody(server: RpcServer, run: Run) -> None:
    """While connecting, before the write, in flight and when the reply is there."""

    async def main() -> None:
        async with AsyncClient(server.address) as client:
            for turns in range(12):
                victims = [asyncio.create_task(client.call("DebitSMS", CD | {"Amount": 2})) for _ in range(5)]
                kept = [asyncio.create_task(client.call("DebitSMS", CD | {"Amount": n})) for n in range(3, 9)]
                for _ in range(turns):
                    await asyncio.sleep(0)
                for victim in victims:
                    victim.cancel()
                assert await asyncio.gather(*kept) == list(range(3, 9))
                await asyncio.gather(*victims, return_exceptions=True)
                assert not client._waiting

    run(main())
    assert server.connections == 1


def test_call_many_that_is_cancelled_leaves_nothing_behind(server: RpcServer, run: Run) -> None:
    async def main() -> None:
        async with AsyncClient(server.address) as client:
            many = asyncio.create_task(client.call_many([("DebitSMS", CD | {"Amount": 1})] * 20, window=8))
            await seen(server, 8)
            many.cancel()
            with pytest.raises(asyncio.CancelledError):
                await many
            assert not client._waiting
            assert await client.call("DebitSMS", CD | {"Amount": 3}) == 3

    run(main())
    assert len(server.seen) == 9


def test_who_waits_for_a_result_may_be_cancelled_and_come_back(server: RpcServer, run: Run) -> None:
    async def main() -> None:
        async with AsyncClient(server.address) as client:
            pending = await client.submit("DebitSMS", CD | {"Amount": 1})
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(pending.result(), 0.05)
            patient = asyncio.create_task(pending.result())
            await asyncio.sleep(0)
            await seen(server, 1)
            server.release(b"6")
            assert (await patient, await pending.result()) == (6, 6)

    run(main())


def test_a_call_that_nobody_waits_for_ends_at_its_time(server: RpcServer, run: Run) -> None:
    async def main() -> None:
        async with AsyncClient(server.address, timeout_s=0.1) as client:
            pending = await client.submit("DebitSMS", CD | {"Amount": 1})
            while client._waiting:
                await asyncio.sleep(0.01)
            with pytest.raises(DeadlineExceeded):
                await pending.result()

    run(main())


def test_a_client_is_for_one_loop(server: RpcServer) -> None:
    client = AsyncClient(server.address)

    async def once() -> None:
        await client.call("DebitSMS", CD | {"Amount": 2})
        with pytest.raises(RuntimeError, match="another event loop"):
            await asyncio.to_thread(asyncio.run, client.call("DebitSMS", CD | {"Amount": 2}))
        await client.close()

    asyncio.run(once())


def test_closing_while_there_is_no_server_ends_the_attempts(run: Run) -> None:
    with RpcServer(held_if_1) as gone:
        address = gone.address

    async def main() -> None:
        client = AsyncClient(address, connect_timeout_s=60)
        call = asyncio.create_task(client.call("DebitSMS", CD, timeout_s=60))
        await asyncio.sleep(0.01)
        await client.close()
        with pytest.raises(RatelError, match="the client was closed"):
            await call
        assert len(asyncio.all_tasks()) == 1

    run(main())
