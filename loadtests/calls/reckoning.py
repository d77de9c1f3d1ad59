"""Around a test: locust's options, the opening balances, and whether all money is there in the end.

With locust's own workers each one settles its books and sends them to the master, which reckons.
"""

from __future__ import annotations

import logging
from argparse import Namespace
from collections import Counter
from decimal import Decimal
from typing import Any, Final

import gevent
from locust import events
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from common.client import JSONClient
from common.errors import RatelError
from loadtests.calls.books import EXIT_MONEY, Books, Debit, disagreements
from loadtests.calls.plan import TENANT, Call, subject
from loadtests.calls.users import BOOKS, call_authorized, call_ended, call_refused

log = logging.getLogger(__name__)

MESSAGE: Final = "ratel_books"
WORKERS_WITHIN_S: Final = 30.0
"""For the books of all workers to arrive, after the test."""
MAX_SHOWN: Final = 10

_STATE: Final[dict[str, Any]] = {"opening": {}, "arrived": 0, "books": Books(), "reckoned": False}
CALLS: Final[Counter[str]] = Counter()


@events.init_command_line_parser.add_listener
def add_options(parser: LocustArgumentParser) -> None:
    group = parser.add_argument_group("Ratel")
    group.add_argument("--address", default="127.0.0.1:2001", help="HOST:PORT of JSON-RPC")
    group.add_argument("--subscribers", type=int, default=1000, help="accounts of the tenant `traffic`")
    group.add_argument("--channels", type=int, default=20, help="calls at a time of a switch")
    group.add_argument("--speed", type=float, default=30.0, help="how many times as fast as in life")
    group.add_argument("--day", type=float, default=120.0, help="seconds that the shape squeezes a day into")
    group.add_argument("--peak", type=int, default=20, help="users in the busiest hour of the shape")


@events.init.add_listener
def listen(environment: Environment, **_: Any) -> None:
    if isinstance(environment.runner, MasterRunner):
        environment.runner.register_message(MESSAGE, take_books)
    call_authorized.add_listener(lambda **_: CALLS.update(["authorized"]))
    call_refused.add_listener(lambda **_: CALLS.update(["refused"]))
    call_ended.add_listener(count_end)


def count_end(call: Call, talked_s: int, cut: bool, **_: Any) -> None:
    CALLS["ended"] += 1
    CALLS["cut"] += cut
    CALLS["seconds"] += talked_s


def take_books(environment: Environment, msg: Any, **_: Any) -> None:
    _STATE["books"].add(msg.data)
    CALLS.update(msg.data["calls"])
    _STATE["arrived"] += 1
    if msg.data["complaints"]:
        complain(environment, msg.data["complaints"])


@events.test_start.add_listener
def open_books(environment: Environment, **_: Any) -> None:
    if not isinstance(environment.runner, WorkerRunner):
        _STATE["opening"] = balances(options_of(environment))
        log.info("%s accounts, %s cents", len(_STATE["opening"]), sum(_STATE["opening"].values()))


@events.test_stop.add_listener
def close_books(environment: Environment, **_: Any) -> None:
    """After the users have stopped: settle, and tell the master."""
    runner = environment.runner
    if isinstance(runner, MasterRunner):
        return
    options = options_of(environment)
    with JSONClient(options.address) as client:
        complaints = BOOKS.settle(lambda debit: repeat(client, debit))
    if isinstance(runner, WorkerRunner):
        message = BOOKS.as_message() | {"complaints": complaints, "calls": dict(CALLS)}
        runner.send_message(MESSAGE, message)
    else:
        _STATE["books"].add(BOOKS.as_message())
        complain(environment, complaints)


@events.quitting.add_listener
def reckon(environment: Environment, **_: Any) -> None:
    """Whether the balances say what the books say; sets the exit code."""
    runner = environment.runner
    if isinstance(runner, WorkerRunner) or not _STATE["opening"] or _STATE["reckoned"]:
        return
    _STATE["reckoned"] = True
    if isinstance(runner, MasterRunner):
        with gevent.Timeout(WORKERS_WITHIN_S, False):
            while _STATE["arrived"] < runner.worker_count:
                gevent.sleep(0.1)
        if _STATE["arrived"] < runner.worker_count:
            complain(environment, ["the books of a worker are missing"])
    taken = _STATE["books"].taken
    try:
        found = disagreements(_STATE["opening"], balances(options_of(environment)), taken)
    except RatelError as error:
        found = [f"the balances can't be read: {error}"]
    print(
        f"calls: {CALLS['authorized']} authorized, {CALLS['refused']} refused, {CALLS['ended']} ended, "
        f"{CALLS['cut']} of them cut, {CALLS['seconds']} s talked"
    )
    cents = Decimal(sum(taken.values())).scaleb(-6)
    if found:
        complain(environment, found)
    else:
        accounts = len(_STATE["opening"])
        print(f"money: {cents:f} cents were charged, and the balances of {accounts} accounts agree")


def complain(environment: Environment, texts: list[str]) -> None:
    for text in texts[:MAX_SHOWN]:
        print(f"money: {text}")
    if texts:
        print(f"money: {len(texts)} disagreements")
        environment.process_exit_code = EXIT_MONEY


def options_of(environment: Environment) -> Namespace:
    assert environment.parsed_options is not None
    return environment.parsed_options


def repeat(client: JSONClient, debit: Debit) -> object:
    return client.call("DebitBalance", debit.fields)


def balances(options: Namespace) -> dict[str, Decimal]:
    """Cents by subscriber: what a debit of nothing answers. Raises RatelError."""
    names = [subject(number) for number in range(options.subscribers)]
    asked = [("DebitBalance", {"CstmId": TENANT, "Subject": name, "Amount": 0}) for name in names]
    with JSONClient(options.address) as client:
        found = client.call_many(asked)
    for outcome in found:
        if isinstance(outcome, RatelError):
            raise outcome
    return {name: Decimal(str(balance)) for name, balance in zip(names, found, strict=True)}
