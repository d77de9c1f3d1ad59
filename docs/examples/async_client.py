"""A switch's side of many calls at once, with the client of asyncio and its named, typed calls.

python async_client.py 127.0.0.1:2001
"""

import asyncio
import sys
from datetime import UTC, datetime
from decimal import Decimal
from uuid import uuid4

from common.api.types import CallCost
from common.async_client import AsyncClient
from common.errors import RatelError

START, END = datetime(2012, 2, 2, 17, 30, tzinfo=UTC), datetime(2012, 2, 2, 18, 30, tzinfo=UTC)


async def price(client: AsyncClient) -> CallCost:
    return await client.get_cost(tenant="vdf", subject="rif", destination="0256308200", start=START, end=END)


async def main(address: str) -> None:
    async with AsyncClient(address) as client:
        allowed = await client.get_max_session_time(
            tenant="vdf", subject="rif", destination="0256308200", amount=3600
        )
        print("may talk, seconds:", allowed)
        cost = await price(client)
        print("cost, cents:", cost["Cost"], "in", len(cost["Timespans"]), "spans")

        # With an id of your own you may repeat a debit, from another process as well: it happens once.
        request_id = str(uuid4())
        left, again = [
            await client.debit_balance(
                tenant="vdf", subject="rif", amount=Decimal("1.5"), request_id=request_id
            )
            for _ in range(2)
        ]
        print("repeated, the same credit is left:", left == again)

        # Tasks share one connection, and nobody waits for the answers of others.
        many = await asyncio.gather(*(price(client) for _ in range(100)))
        print("100 at once, cents:", sum(each["Cost"] for each in many))

        try:
            await client.debit_balance(tenant="vdf", subject="nobody", amount=1)
        except RatelError as error:
            print("refused:", error.name)


asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:2001"))
