"""`ratel call` against a real server: what it sends, shows, refuses, and how it ends."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from decimal import Decimal
from io import StringIO
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from common.client import JSONClient
from common.commands import call_command, client_options
from common.errors import BelowFloor
from common.methods import BY_NAME
from tests.integration.call_answers import CALL_COST, answer
from tests.integration.rpc_server import HOLD, RpcServer

CD = {"TOR": 0, "CstmId": "vdf", "Subject": "rif", "DestinationPrefix": "0256"}


@pytest.fixture
def server() -> Iterator[RpcServer]:
    with RpcServer(answer) as running:
        yield running


def ratel_call(server: RpcServer, *arguments: str) -> Result:
    environment = {"RATEL_ADDRESS": f"127.0.0.1:{server.address[1]}"}
    return CliRunner().invoke(call_command.call, list(arguments), env=environment)


def test_call_prints_json_in_a_pipe(server: RpcServer) -> None:
    result = ratel_call(server, "GetCost", "CstmId=vdf", "Subject=rif", "DestinationPrefix=0256")
    assert (result.exit_code, json.loads(result.stdout)) == (0, CALL_COST)
    assert server.seen == [("GetCost", {"CstmId": "vdf", "Subject": "rif", "DestinationPrefix": "0256"})]


def test_call_takes_names_in_any_case_and_as_http_has_them(server: RpcServer) -> None:
    names = ["cstmid=vdf", "subj=a=b", "dest=0256", "AMOUNT=0.10", "tor=2", "start=2012-02-02T17:30:00Z"]
    for method in ("getmaxsessiontime", "GETMAXSESSIONTIME", "responder.GetMaxSessionTime"):
        result = ratel_call(server, method, *names)
        assert (result.exit_code, result.stdout) == (0, "0.10\n")
    assert server.seen[0] == (
        "GetMaxSessionTime",
        {
            "CstmId": "vdf",
            "Subject": "a=b",
            "DestinationPrefix": "0256",
            "Amount": Decimal("0.1"),
            "TOR": 2,
            "TimeStart": "2012-02-02T17:30:00Z",
        },
    )


def test_call_keeps_amounts_exact(server: RpcServer) -> None:
    result = ratel_call(server, "DebitBalance", "Amount=-9007199254.740991")
    assert result.stdout == "-9007199254.740991\n"
    assert server.seen[0][1]["Amount"] == Decimal("-9007199254.740991")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["GetCots"], "did you mean 'GetCost'?"),
        (["GetCost", "Subjekt=rif"], "did you mean 'Subject'? Known are CstmId, Subject,"),
        (["GetCost", "zzzzz=rif"], "there is no field 'zzzzz'; Known are CstmId"),
        (["GetCost", "Subject"], "expected NAME=VALUE"),
        (["GetCost", "subj=a", "Subject=b"], "given twice"),
        (["DebitSMS", "Amount=ten"], "Amount: expected a number"),
        (["DebitSMS", "Amount=NaN"], "Amount: expected a number"),
        (["DebitSMS", "Amount=1_000"], "Amount: expected a number"),
        (["DebitSMS", "TOR=1.5"], "TOR: expected a whole number"),
        (["GetCost", "start=yesterday"], "TimeStart: expected an RFC 3339 time"),
        (["GetCost", "--address", "nowhere"], "expected HOST:PORT"),
        (["GetCost", "--timeout", "0"], "range"),
    ],
)
def test_call_says_what_is_wrong_with_its_arguments(
    server: RpcServer, arguments: list[str], message: str
) -> None:
    result = ratel_call(server, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert server.seen == []


def test_call_ends_with_1_when_refused(server: RpcServer) -> None:
    result = ratel_call(server, "GetCost", "subj=nobody")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: tenant 'vdf' has no rate")
    server.handler = lambda _, cd: BelowFloor(amount=5, credit=1, min_credit=0)
    assert ratel_call(server, "DebitBalance", "Amount=5").exit_code == 1


def test_call_ends_with_3_when_the_service_fails(server: RpcServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.handler = lambda _, cd: HOLD
    result = ratel_call(server, "GetCost", "--timeout", "0.05")
    assert (result.exit_code, result.stdout) == (3, "")
    server.stop()
    monkeypatch.setattr(client_options, "CONNECT_TIMEOUT_S", 0.1)
    result = ratel_call(server, "GetCost")
    assert result.exit_code == 3
    assert "can't connect" in result.stderr


def test_call_tells_how_to_have_it_done_once_when_nobody_knows_whether_it_was(server: RpcServer) -> None:
    server.handler = lambda _, cd: HOLD
    result = ratel_call(server, "DebitBalance", "Amount=5", "--timeout", "0.05")
    assert result.exit_code == 3
    again = result.stderr.rpartition("repeat it with ")[2].strip()
    [(_, descriptor)] = server.seen
    assert again == f"RequestId={descriptor['RequestId']}"
    server.handler = lambda _, cd: b"7"
    assert ratel_call(server, "DebitBalance", "Amount=5", again).stdout == "7\n"
    assert server.seen[1] == server.seen[0]


def shown(method: str, result: Any) -> str:
    out = StringIO()
    call_command.show(Console(file=out, width=140, highlight=False), BY_NAME[method], result)
    return out.getvalue()


def test_call_shows_a_call_cost_as_a_table_of_spans(server: RpcServer) -> None:
    with JSONClient(server.address) as client:
        text = shown("GetCost", client.call("GetCost", CD))
    assert "vdf: rif to 0256" in text
    for row in (
        ["2012-02-02T17:30:00Z", "1800.5", "360.1", "0.2 per 1 s"],
        ["2012-02-02T18:00:00.5Z", "600", "bucket [nationale]: 600 s at 0 a second"],
        ["2012-02-02T18:10:00.5Z", "1199.5", "no price is in effect"],
    ):
        (line,) = [line for line in text.splitlines() if line.startswith(f"│ {row[0]}")]
        assert all(cell in line for cell in row)
    assert text.endswith("Cost 540 cents, connect fee 0 cents\n")


@pytest.mark.parametrize(
    ("method", "result", "text"),
    [
        ("DebitBalance", Decimal("12.50"), "DebitBalance: credit left 12.50 cents\n"),
        ("DebitSMS", 88, "DebitSMS: SMS left 88\n"),
        ("GetMaxSessionTime", 1080, "GetMaxSessionTime: 1080 seconds\n"),
        ("AddRecievedCallSeconds", 3, "AddRecievedCallSeconds: the counter 3 seconds\n"),
        ("ResetUserBudget", 0, "ResetUserBudget: done\n"),
    ],
)
def test_call_shows_a_number_with_what_it_is(method: str, result: Any, text: str) -> None:
    assert shown(method, result) == text


def test_call_is_readable_on_a_terminal_and_json_on_demand(
    server: RpcServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RATEL_ADDRESS", f"127.0.0.1:{server.address[1]}")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for arguments, expected in (
        (["DebitSMS", "amount=88"], "DebitSMS: SMS left 88\n"),
        (["DebitSMS", "amount=88", "--json"], "88\n"),
    ):
        call_command.call.main(arguments, standalone_mode=False)
        out = capsys.readouterr().out
        assert re.sub(r"\x1b\[\d*m", "", out) == expected
