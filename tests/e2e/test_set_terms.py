"""SetTerms through each door: an account is blocked and its terms are set, once for each key."""

from __future__ import annotations

import asyncio
import json
import shlex
import shutil
import subprocess
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from common.async_client import AsyncClient
from common.errors import Blocked, InvalidParams, KeyReused, UnknownSubject
from common.zmq_client import ZmqClient
from tests.e2e.cluster import RATEL, Cluster

Door = Callable[..., int]
ROOT = Path(__file__).resolve().parents[2]


def ratel(*words: str) -> str:
    return subprocess.run(
        [*RATEL, *words], capture_output=True, text=True, timeout=60, check=True
    ).stdout.strip()


def opened(cluster: Cluster, subject: str) -> dict[str, Any]:
    ratel("account", "create", "vdf", subject, "--credit", "100", "--sms", "10", "--store", cluster.store_url)
    return {"CstmId": "vdf", "Subject": subject}


def over_tcp(cluster: Cluster, **fields: Any) -> int:
    with cluster.client() as client:
        return int(client.call("SetTerms", fields))


def over_zeromq(cluster: Cluster, **fields: Any) -> int:
    with ZmqClient(cluster.router) as client:
        return int(client.call("SetTerms", fields))


def by_query(cluster: Cluster, **fields: Any) -> int:
    names = {"CstmId": "cstmid", "Subject": "subj"}
    params = {
        names.get(name, name.lower()): value if isinstance(value, str) else json.dumps(value)
        for name, value in fields.items()
    }
    status, body = cluster.get("/setterms", **params)
    assert status == 200, body
    return int(body)


def by_json(cluster: Cluster, **fields: Any) -> int:
    key = {"idempotency-key": fields.pop("RequestId")} if "RequestId" in fields else {}
    body = json.dumps(fields).encode()
    status, result = cluster.request("POST", "/setterms", body, key | {"content-type": "application/json"})
    assert status == 200, result
    return int(result)


def by_jsonrpc_over_http(cluster: Cluster, **fields: Any) -> int:
    call = {"jsonrpc": "2.0", "id": 1, "method": "Responder.SetTerms", "params": fields}
    status, reply = cluster.request("POST", "/jsonrpc", json.dumps(call).encode())
    assert status == 200, reply
    return int(reply["result"])


def by_command(cluster: Cluster, **fields: Any) -> int:
    words = [
        f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in fields.items()
    ]
    host, port = cluster.jsonrpc
    return int(ratel("call", "SetTerms", *words, "--address", f"{host}:{port}"))


@pytest.mark.parametrize(
    "door",
    [over_tcp, over_zeromq, by_query, by_json, by_jsonrpc_over_http, by_command],
    ids=lambda f: f.__name__,
)
def test_each_door_blocks_once_and_sets_terms(sample_cluster: Cluster, door: Door) -> None:
    who = opened(sample_cluster, f"of {door.__name__}")
    sms = {"Amount": 1}
    with sample_cluster.client() as client:
        assert door(sample_cluster, **who, Blocked=True, RequestId="block") == 1
        with pytest.raises(Blocked):
            client.call("DebitSMS", who | sms)
        assert door(sample_cluster, **who, Blocked=True) == 0  # it is so already
        assert door(sample_cluster, **who, Blocked=False) == 1
        assert door(sample_cluster, **who, Blocked=True, RequestId="block") == 1  # that was said before
        assert client.call("DebitSMS", who | sms) == 9
        with pytest.raises(KeyReused):
            client.call("SetTerms", who | {"Blocked": False, "RequestId": "block"})
        terms = {"Type": "postpaid", "MinCredit": -5.5, "TariffPlanId": "a plan", "ResetDayOfTheMonth": 7}
        assert door(sample_cluster, **who, **terms) == 1
        account: Any = client.call("Account", who)
        assert {name: account[name] for name in terms} == terms | {"MinCredit": Decimal("-5.5")}
        assert door(sample_cluster, **who, NoMinCredit=True, NoTariffPlan=True, ResetDayOfTheMonth=0) == 1
        account = client.call("Account", who)
        assert [account[name] for name in terms] == ["postpaid", None, None, 0]
        assert (account["Credit"], account["SmsCredit"], account["Blocked"]) == (100, 9, False)
        lines: Any = client.call("History", who)
    operations = [line["Operation"] for line in lines["Lines"]]
    assert operations == ["Open", "SetTerms", "SetTerms", "DebitSMS", "SetTerms", "SetTerms"]
    assert lines["Lines"][1]["Token"] == "c:block"
    assert lines["Lines"][1]["Terms"] == "prepaid floor=none reset_day=0 blocked=1 plan="


def test_the_named_calls_do_it_too(sample_cluster: Cluster) -> None:
    who = opened(sample_cluster, "named")

    async def unblock() -> int:
        host, port = sample_cluster.jsonrpc
        async with AsyncClient((host, port)) as client:
            return await client.set_terms(tenant="vdf", subject="named", blocked=False, request_id="open")

    with sample_cluster.client() as client:
        done = client.set_terms(tenant="vdf", subject="named", blocked=True, min_credit=Decimal("0.5"))
        assert done == 1
        account: Any = client.call("Account", who)
        assert (account["Blocked"], account["MinCredit"]) == (True, Decimal("0.5"))
        assert asyncio.run(unblock()) == 1
        assert not client.account(tenant="vdf", subject="named")["Blocked"]


def test_what_is_wrong_is_named_and_changes_nothing(sample_cluster: Cluster) -> None:
    who = opened(sample_cluster, "wrong")
    with sample_cluster.client() as client:
        before = client.call("Account", who)
        for terms, message in (
            ({}, "terms: none is given"),
            ({"Blocked": 1}, "Blocked: expected true or false"),
            ({"Blocked": True, "Type": "free"}, "Type: expected prepaid or postpaid"),
            ({"Blocked": True, "ResetDayOfTheMonth": 40}, "ResetDayOfTheMonth: expected a whole number"),
        ):
            with pytest.raises(InvalidParams, match=message):
                client.call("SetTerms", who | terms)
        with pytest.raises(UnknownSubject):
            client.call("SetTerms", who | {"Subject": "nobody", "Blocked": True})
        assert client.call("Account", who) == before
    status, body = sample_cluster.get("/setterms", cstmid="vdf", subj="wrong", blocked="yes")
    assert (status, body["error"]["message"]) == (400, "blocked: expected true or false, not 'yes'")


def test_the_commands_that_the_page_shows(sample_cluster: Cluster) -> None:
    who = opened(sample_cluster, "shown")
    section = (
        (ROOT / "docs" / "rating.md")
        .read_text()
        .partition("## Terms of an account\n")[2]
        .partition("\n## ")[0]
    )
    commands = section.partition("```sh\n")[2].partition("```")[0].splitlines()
    assert len(commands) == 2
    host, port = sample_cluster.jsonrpc
    for command, blocked in zip(commands, (True, False), strict=True):
        words = shlex.split(
            command.replace("subj=anna", "subj=shown").replace("Subject=anna", "Subject=shown")
        )
        if words[0] == "ratel":
            words = [*RATEL, *words[1:], "--address", f"{host}:{port}"]
        words = [word.replace("http://127.0.0.1:8000", sample_cluster.http) for word in words]
        if shutil.which(words[0]) is None:
            pytest.skip(f"there is no {words[0]}")
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout.strip() == "1", command
        with sample_cluster.client() as client:
            account: Any = client.call("Account", who)
        assert account["Blocked"] is blocked
    assert account["MinCredit"] == -500


def test_the_books_are_right_after_it(sample_cluster: Cluster) -> None:
    ratel("audit", "--store", sample_cluster.store_url)
