"""Who is let go when all clients together leave too much unread."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from balancer.unsent import UnsentBound, most_unsent


class Client:
    def __init__(self, unsent_bytes: int) -> None:
        self.unsent_bytes = unsent_bytes
        self.is_closed = False

    def abort(self) -> None:
        self.is_closed = True


@given(st.lists(st.integers(0, 100), max_size=20), st.integers(0, 500))
def test_the_rest_is_within_the_limit_and_it_takes_no_fewer(sizes: list[int], limit: int) -> None:
    places = most_unsent(sizes, limit)
    assert len(set(places)) == len(places)
    rest = [size for place, size in enumerate(sizes) if place not in places]
    assert sum(rest) <= limit
    if places:
        smallest = min(sizes[place] for place in places)
        assert sum(rest) + smallest > limit, "one less would have been too few"
        assert smallest >= max(rest, default=0), "those that leave most"


def test_only_those_that_leave_most_are_closed() -> None:
    clients = [Client(size) for size in (10, 400, 0, 300, 10)]
    UnsentBound("jsonrpc", clients, 720).keep()
    assert not any(client.is_closed for client in clients)
    UnsentBound("jsonrpc", clients, 350).keep()
    assert [client.is_closed for client in clients] == [False, True, False, False, False]
    rest = [client for client in clients if not client.is_closed]
    UnsentBound("jsonrpc", rest, 20).keep()
    assert [client.is_closed for client in clients] == [False, True, False, True, False]


def test_it_is_looked_at_shortly_after_somebody_got_behind_and_once_for_all_of_them() -> None:
    async def run() -> None:
        clients = [Client(0)]
        bound = UnsentBound("http", clients, 100)
        loop = asyncio.get_running_loop()
        for _ in range(2):
            clients.append(Client(200))
            for _ in range(1000):
                bound.keep_soon(loop)
            while not clients[-1].is_closed:
                await asyncio.sleep(0.001)
            clients.pop()

    asyncio.run(run())
