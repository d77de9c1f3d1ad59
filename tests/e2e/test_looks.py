"""Account and History through each door: what `ratel account` says of the same account."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from common.commands.call_command import encode_result
from common.errors import InvalidParams, UnknownSubject, UnknownTenant
from tests.e2e.cluster import RATEL, Cluster

ANNA = {"CstmId": "vdf", "Subject": "anna"}


def account_command(cluster: Cluster, *words: str) -> list[Any]:
    command = [*RATEL, "account", *words, "--json", "--store", cluster.store_url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_all_doors_say_what_the_command_says(sample_cluster: Cluster) -> None:
    with sample_cluster.client() as client:
        client.call("DebitSMS", ANNA | {"Amount": 1, "RequestId": "look-1"})
        client.call("DebitSeconds", ANNA | {"DestinationPrefix": "0757", "Amount": 1})
        account: Any = json.loads(encode_result(client.call("Account", ANNA)))
        history: Any = json.loads(encode_result(client.call("History", ANNA | {"Amount": 2})))
    assert sample_cluster.get("/account", cstmid="vdf", subj="anna") == (200, account)
    assert sample_cluster.get("/history", cstmid="vdf", subj="anna", amount=2) == (200, history)
    assert account_command(sample_cluster, "show", "vdf", "anna") == [account]
    assert account_command(sample_cluster, "history", "vdf", "anna", "--last", "2") == history["Lines"]
    assert [line["Operation"] for line in history["Lines"]] == ["DebitSMS", "DebitSeconds"]
    assert history["Lines"][0]["Token"] == "c:look-1"
    assert [history["Changes"], history["Lines"][-1]["SmsCredit"]] == [
        account["Changes"],
        account["SmsCredit"],
    ]


def test_what_is_not_there_and_what_is_too_much(sample_cluster: Cluster) -> None:
    with sample_cluster.client() as client:
        for method in ("Account", "History"):
            with pytest.raises(UnknownSubject):
                client.call(method, ANNA | {"Subject": "nobody"})
            with pytest.raises(UnknownTenant):
                client.call(method, ANNA | {"CstmId": "nobody"})
        for amount in (201, -1, 1.5):
            with pytest.raises(InvalidParams, match="a whole number of lines, 1 to 200"):
                client.call("History", ANNA | {"Amount": amount})
    assert sample_cluster.get("/account", cstmid="vdf")[0] == 400


def test_many_looks_among_calls_are_all_answered(sample_cluster: Cluster) -> None:
    """More than a round trip takes, of the same and of other accounts, with reads and changes beside them."""
    asked = [
        (method, {"CstmId": "vdf", "Subject": subject, "DestinationPrefix": "0256", "Amount": 1})
        for _ in range(25)
        for subject in ("anna", "rif", "office", "nobody")
        for method in ("Account", "History", "GetMaxSessionTime")
    ]

    def ask(one: tuple[str, dict[str, Any]]) -> str:
        with sample_cluster.client() as client:
            try:
                result: Any = client.call(*one)
            except UnknownSubject:
                return "unknown"
        return str(result["Subject"]) if isinstance(result, dict) else "seconds"

    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(ask, asked))
    for (method, descriptor), found in zip(asked, answers, strict=True):
        subject = descriptor["Subject"]
        expected = (
            "seconds" if method == "GetMaxSessionTime" else "unknown" if subject == "nobody" else subject
        )
        assert found == expected
