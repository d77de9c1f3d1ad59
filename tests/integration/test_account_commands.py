"""`ratel account` on a real store: what it does, what it prints, and what it refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result

from common.errors import StoreUnavailable
from common.storage.embedded_store import EmbeddedStore
from common.storage.store import StoreConnection
from rater.accounts.commands import account as command
from rater.model import Account, Bucket
from rater.store.keys import account_keys

MICRO = 1_000_000


class Run:
    def __init__(self, url: str) -> None:
        self.url = url

    def __call__(self, *words: str, url: str = "") -> Result:
        name, *rest = words
        result = CliRunner().invoke(command, [name, "--store", url or self.url, *rest])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result


@pytest.fixture
def run(store: StoreConnection, store_server: EmbeddedStore) -> Run:
    return Run(store_server.url)


def test_an_account_is_opened_once(run: Run, accounts: Any) -> None:
    words = ("create", "vdf", "bob", "--credit", "12.5", "--sms", "3", "--type", "postpaid", "--floor", "-5")
    more = ("--plan", "gold", "--reset-day", "7", "--bucket", "a=b=60@0.01,-2", "--bucket", "mobile=1")
    assert run(*words, *more).stdout == "created\n"
    expected = Account(
        "bob",
        12_500_000,
        3 * MICRO,
        reset_day=7,
        plan="gold",
        postpaid=True,
        min_credit_micros=-5 * MICRO,
        buckets=(Bucket("a=b", 60 * MICRO, -2, 10_000_000), Bucket("mobile", MICRO, 0, 0)),
    )
    assert accounts.read("bob") == expected
    again = run("create", "vdf", "bob", "--credit", "1")
    assert again.exit_code == 1
    assert "has an account for subject 'bob' already; nothing was changed" in again.stderr
    assert accounts.read("bob") == expected


def test_credit_is_given_once_for_each_request_id(run: Run, accounts: Any) -> None:
    accounts.open(Account("rif", 10 * MICRO, min_credit_micros=0))
    assert run("credit", "vdf", "rif", "2.5", "--request-id", "a").stdout == "12.5 cents\n"
    assert "was carried out already" in run("credit", "vdf", "rif", "2.5", "--request-id", "a").stdout
    assert run("credit", "vdf", "rif", "4", "--sms").stdout == "4 SMS\n"
    assert run("credit", "vdf", "rif", "--", "-12.5").stdout == "0 cents\n"
    refused = run("credit", "vdf", "rif", "--", "-1")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "would go below the floor of 0" in refused.stderr
    reused = run("credit", "vdf", "rif", "3", "--request-id", "a")
    assert "used before with other parameters" in reused.stderr
    assert accounts.read().credit_micros == 0
    assert [line["token"][:2] for line in accounts.journal()[1:]] == [b"c:", b"c:", b"c:"]


def test_terms_and_blocks(run: Run, accounts: Any) -> None:
    accounts.open(Account("rif"))
    assert run("set", "vdf", "rif", "--type", "postpaid", "--floor", "7", "--plan", "x").stdout == "set\n"
    assert accounts.read() == Account("rif", postpaid=True, min_credit_micros=7 * MICRO, plan="x")
    assert run("set", "vdf", "rif", "--no-floor", "--plan", "").stdout == "set\n"
    assert run("set", "vdf", "rif", "--no-floor").stdout == "it was so already\n"
    assert run("block", "vdf", "rif").stdout == "blocked\n"
    assert run("block", "vdf", "rif").stdout == "it was blocked already\n"
    assert "BLOCKED" in run("show", "vdf", "rif").stdout
    assert run("unblock", "vdf", "rif").stdout == "unblocked\n"
    assert accounts.read() == Account("rif", postpaid=True)


def test_what_is_decided_under_a_request_id_is_decided_once(run: Run, accounts: Any) -> None:
    accounts.open(Account("rif"))
    before = ", as before: this request id was carried out already\n"
    assert run("block", "vdf", "rif", "--request-id", "a").stdout == "blocked\n"
    assert run("block", "vdf", "rif", "--request-id", "a").stdout == "blocked" + before
    assert run("unblock", "vdf", "rif", "--request-id", "b").stdout == "unblocked\n"
    assert run("block", "vdf", "rif", "--request-id", "a").stdout == "blocked" + before
    assert run("set", "vdf", "rif", "--plan", "x", "--request-id", "c").stdout == "set\n"
    assert run("set", "vdf", "rif", "--plan", "x", "--request-id", "d").stdout == "it was so already\n"
    assert run("set", "vdf", "rif", "--plan", "x", "--request-id", "d").stdout == "it was so already" + before
    for words in (("block", "vdf", "rif"), ("set", "vdf", "rif", "--plan", "y")):
        reused = run(*words, "--request-id", "b")
        assert reused.exit_code == 1
        assert "the request id 'b' was used before with other parameters" in reused.stderr
    assert accounts.read() == Account("rif", plan="x"), "an old request is no new one"
    assert [line["token"] for line in accounts.journal()[1:]] == [b"c:a", b"c:b", b"c:c"]
    told = json.loads(run("block", "vdf", "rif", "--request-id", "a", "--json").stdout)
    who = {"CstmId": "vdf", "Subject": "rif", "RequestId": "a"}
    assert told == who | {"Changed": True, "Replayed": True}


def test_it_is_shown_for_people_and_for_programs(run: Run, accounts: Any) -> None:
    accounts.open(
        Account(
            "rif", 1_500_001, 2 * MICRO, plan="day", buckets=(Bucket("mobile", 60 * MICRO, 3, 5_000_000),)
        )
    )
    text = run("show", "vdf", "rif").stdout
    assert "credit             1.500001 cents" in text
    assert "minute bucket      60 s to mobile, 0.005 a second, priority 3" in text
    shown = json.loads(run("show", "vdf", "rif", "--json").stdout)
    assert shown["Credit"] == 1.500001
    assert shown["MinuteBuckets"] == [
        {"DestinationId": "mobile", "Seconds": 60, "Priority": 3, "Price": 0.005}
    ]
    assert (shown["Changes"], shown["Blocked"], shown["MinCredit"]) == (1, False, None)


def test_the_history_is_the_journal(run: Run, accounts: Any) -> None:
    accounts.open(Account("rif", 10 * MICRO))
    accounts.run("DebitBalance", 4, token="c:call-1")
    run("block", "vdf", "rif")
    lines = run("history", "vdf", "rif").stdout.splitlines()
    assert [line.split()[2] for line in lines] == ["Open", "DebitBalance", "SetTerms"]
    assert lines[1].endswith("credit 6  sms 0  request c:call-1")
    assert "blocked=1" in lines[2]
    last = [
        json.loads(line) for line in run("history", "vdf", "rif", "--last", "2", "--json").stdout.splitlines()
    ]
    assert [(line["Seq"], line["Operation"], line["Amount"], line["Credit"]) for line in last] == [
        (2, "DebitBalance", 4, 6),
        (3, "SetTerms", 0, 6),
    ]
    keys = account_keys("vdf", "rif")
    accounts.store.execute([("XADD", keys.journal, "*", "odd", "1")])
    assert "DAMAGED" in run("history", "vdf", "rif").stdout


@pytest.mark.parametrize("words", [("show",), ("block",), ("history",), ("credit",), ("set",)])
def test_an_account_that_there_is_not_is_refused(run: Run, accounts: Any, words: tuple[str]) -> None:
    more = {"credit": ("5",), "set": ("--plan", "x")}.get(words[0], ())
    result = run(*words, "vdf", "nobody", *more)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: tenant 'vdf' has no account for subject 'nobody'\n"
    assert accounts.state("nobody") == [None, 0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("credit", "vdf", "rif", "abc"), "not a number: 'abc'"),
        (("credit", "vdf", "rif", "1e99"), "outside ±9007199254.740991"),
        (("credit", "vdf", "rif", "0.0000001"), "more than 6 decimals"),
        (("set", "vdf", "rif"), "nothing to set"),
        (("set", "vdf", "rif", "--floor", "1", "--no-floor"), "exclude each other"),
        (("set", "vdf", "rif", "--reset-day", "32"), "0<=x<=31"),
        (("create", "vdf", "rif", "--bucket", "mobile"), "expected DESTINATION=SECONDS[@PRICE][,PRIORITY]"),
        (
            ("create", "vdf", "rif", "--bucket", "mobile=1@"),
            "expected DESTINATION=SECONDS[@PRICE][,PRIORITY]",
        ),
        (("create", "vdf", "rif", "--bucket", "mobile=-1"), "are not below 0"),
        (("create", "vdf", "rif", "--bucket", "mobile=1,x"), "invalid literal"),
        (("history", "vdf", "rif", "--last", "0"), "1<=x<=10000"),
        (("credit", "vdf", "rif", "1", "--request-id", ""), "expected 1 to 256 characters, not 0"),
        (("block", "vdf", "rif", "--request-id", "x" * 257), "expected 1 to 256 characters, not 257"),
    ],
)
def test_a_wrong_command_line_says_what_is_wrong(run: Run, words: tuple[str, ...], said: str) -> None:
    result = run(*words)
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_store_that_is_away_is_told(run: Run) -> None:
    result = run("show", "vdf", "rif", url="redis://127.0.0.1:1")
    assert result.exit_code == 3
    assert result.stderr.startswith("error: the store is not available")


@pytest.mark.parametrize(
    ("words", "reply", "said"),
    [
        (("credit", "vdf", "rif", "2"), b"OK 12000000", "12 cents"),
        (("block", "vdf", "rif"), b"OK 1000000", "blocked"),
        (("set", "vdf", "rif", "--plan", "x"), b"OK 1000000", "set"),
    ],
)
def test_what_was_perhaps_done_can_be_done_once(
    run: Run,
    accounts: Any,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    reply: bytes,
    said: str,
) -> None:
    """The connection breaks with the answer, and nobody chose the request id."""
    accounts.open(Account("rif", 10 * MICRO))
    receive = StoreConnection.receive

    def lose(self: StoreConnection, sent: Any, give_up_s: float | None = None) -> Any:
        replies = receive(self, sent, give_up_s)
        if [reply] in replies:
            raise StoreUnavailable(detail="the connection broke")
        return replies

    monkeypatch.setattr(StoreConnection, "receive", lose)
    lost = run(*words)
    monkeypatch.undo()
    assert lost.exit_code == 3
    assert "whether it was done is unknown" in lost.stderr
    request_id = lost.stderr.rpartition("--request-id ")[2].strip()
    again = run(*words, "--request-id", request_id)
    assert again.stdout == f"{said}, as before: this request id was carried out already\n"
    assert len(accounts.journal()) == 2, "the opening, and this"


def test_a_value_that_is_no_account_is_told(run: Run, store: StoreConnection) -> None:
    store.execute([("SET", account_keys("vdf", "rif").account, "RATELac1" + "x" * 99)])
    result = run("show", "vdf", "rif")
    assert result.exit_code == 1
    assert "something else as this account" in result.stderr


def test_what_changes_an_account_says_so_as_json(run: Run, accounts: Any) -> None:
    who = {"CstmId": "vdf", "Subject": "bob"}
    created = json.loads(run("create", "vdf", "bob", "--credit", "5", "--json").stdout)
    assert created == who | {"Created": True}
    words = ("credit", "vdf", "bob", "2.5", "--request-id", "a", "--json")
    given = who | {"RequestId": "a", "Unit": "cents", "Left": 7.5}
    assert json.loads(run(*words).stdout) == given | {"Replayed": False}
    assert json.loads(run(*words).stdout) == given | {"Replayed": True}
    for words, changed in (
        (("block", "vdf", "bob"), True),
        (("block", "vdf", "bob"), False),
        (("unblock", "vdf", "bob"), True),
        (("set", "vdf", "bob", "--plan", "x"), True),
    ):
        told = json.loads(run(*words, "--json").stdout)
        assert told.pop("RequestId").startswith("account-set-")
        assert told == who | {"Changed": changed, "Replayed": False}
    assert accounts.read("bob") == Account("bob", 7_500_000, plan="x")
