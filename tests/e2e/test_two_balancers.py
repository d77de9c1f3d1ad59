"""Two balancers, raters that joined both, one store: a balancer that dies takes nothing with it but time.

The clients have both addresses where nothing is said of one.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from common.client import JSONClient
from common.errors import DeadlineExceeded
from rater.store.keys import account_keys
from tests.faults.load import Load
from tests.faults.nodes import TENANT, Balancer, Node, Site, wait_until
from tests.stored import account_fields, line_fields

ACCOUNTS = {"one": 1_000_000, "two": 1_000_000}
OTHERS = {"three": 1_000_000}
BACK_WITHIN_S = 2.0
"""Promised for the clients of a balancer that dies or hangs."""
KILLS = 10
CREDIT = 4
"""Requests that each balancer may have at a rater: few, so that one of them could use them up."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    options = ["--journal-lines", "1000000"]
    with Site(tmp_path / "site", raters=2, balancers=2, rater_options=options) as site:
        site.start(ACCOUNTS | OTHERS)
        yield site


def both(site: Site, **options: Any) -> JSONClient:
    return JSONClient([balancer.jsonrpc for balancer in site.balancers], **options)


def debit(key: str, cents: int = 7) -> dict[str, Any]:
    return {"CstmId": TENANT, "Subject": "one", "Amount": cents, "RequestId": key}


class InFlight:
    """Makes a call that is sure to be unanswered: the rater that has it is stopped at `point`."""

    def __init__(self, site: Site, point: str, call: Any) -> None:
        self.outcome: list[Any] = []
        site.points.arm(point, "stop")
        self._thread = threading.Thread(target=self._make, args=(call,))
        self._thread.start()
        wait_until(lambda: site.points.taken(point), "a rater has the request")
        (pid,) = site.points.taken(point)
        self._rater: Node = next(rater for rater in site.raters if rater.pid == pid)

    def _make(self, call: Any) -> None:
        try:
            self.outcome.append(call())
        except Exception as error:
            self.outcome.append(error)

    def wait(self) -> Any:
        self._thread.join()
        return self.outcome[0]

    def end(self) -> None:
        """Wakes the rater, which does what it still has, and ends."""
        self._rater.resume()
        assert self._rater.terminate() == 0


def credit_and_lines(site: Site) -> tuple[int, list[str]]:
    """The credit of account "one", and the tokens in its journal."""
    keys = account_keys(TENANT, "one")
    assert site.store is not None
    with site.store.connect() as store:
        live, lines = store.execute([("GET", keys.account), ("XRANGE", keys.journal, "-", "+")])
    tokens = [line_fields(words)["token"].decode() for _, words in lines]
    return int(account_fields(live)["credit"]) // 1_000_000, tokens[1:]


def charged_once(site: Site, key: str, cents: int = 7) -> bool:
    return credit_and_lines(site) == (ACCOUNTS["one"] - cents, [f"c:{key}"])


# --- each for itself -----------------------------------------------------------------------------


def test_each_balancer_has_its_own_credit_at_each_rater(tmp_path: Path) -> None:
    """A flood at one balancer waits there; the other's requests don't queue up behind it."""
    options = ["--credit", str(CREDIT)]
    with Site(tmp_path / "site", raters=2, balancers=2, rater_options=options) as site:
        site.start(ACCOUNTS)
        answered = 0
        enough = threading.Event()

        def flood() -> None:
            nonlocal answered
            with site.client(0, timeout_s=60) as client:
                window = [client.submit("DebitBalance", debit(f"f{n}")) for n in range(900)]
                for n, oldest in enumerate(window):  # it grows while it is read
                    oldest.result()
                    answered += 1
                    if not enough.is_set():
                        window.append(client.submit("DebitBalance", debit(f"g{n}")))

        flooding = threading.Thread(target=flood)
        flooding.start()
        with site.client(1, timeout_s=60) as client:
            wait_until(lambda: answered > 900, "the flood is under way")
            before = answered
            for n in range(50):
                client.call("DebitBalance", debit(f"b{n}"))
            meanwhile = answered - before
        enough.set()
        flooding.join()
    assert meanwhile / 50 < 450, "a request waited behind half of the other balancer's queue"


# --- balancers that are killed -------------------------------------------------------------------


def test_balancers_killed_one_after_the_other_cost_no_client_an_error(site: Site) -> None:
    with Load(lambda _: both(site), ACCOUNTS) as load:
        load.wait(200)
        load.start_measuring()
        for _, balancer in zip(range(KILLS), cycle(site.balancers), strict=False):
            balancer.kill()  # all clients are here
            load.wait(100)
            balancer.start()
            site.wait_ready()
            load.recovered("balancer killed", BACK_WITHIN_S)
    load.check(site)


def test_a_balancer_killed_disturbs_no_client_of_the_other(site: Site) -> None:
    theirs: list[JSONClient] = []

    def other(_: int) -> JSONClient:
        theirs.append(site.client(1))
        return theirs[-1]

    with Load(lambda _: both(site), ACCOUNTS) as load, Load(other, OTHERS, threads=4) as others:
        for _ in range(3):
            load.wait(100)
            others.wait(100)
            links = [client._link for client in theirs]
            site.balancers[0].kill()
            load.wait(100)
            others.wait(100)
            assert [client._link for client in theirs] == links, "its connection was made anew"
            site.balancers[0].start()
            site.wait_ready()
    load.check(site)
    others.check(site)


@pytest.mark.parametrize("point", ["before_write", "after_write"])
def test_a_call_in_flight_in_a_balancer_that_is_killed_is_done_once_at_the_other(
    site: Site, point: str
) -> None:
    with both(site, timeout_s=60) as client:
        flight = InFlight(site, point, lambda: client.call("DebitBalance", debit("k")))
        site.balancers[0].kill()
        assert flight.wait() == ACCOUNTS["one"] - 7
        flight.end()
        assert client.call("DebitBalance", debit("k")) == ACCOUNTS["one"] - 7
    assert charged_once(site, "k")


@pytest.mark.parametrize("point", ["before_write", "after_write"])
def test_a_client_of_the_dead_balancer_alone_learns_its_request_id_and_repeats_it_at_the_other(
    site: Site, point: str
) -> None:
    with site.client(0, auto_request_id=True) as client:
        no_id = {"CstmId": TENANT, "Subject": "one", "Amount": 7}
        flight = InFlight(site, point, lambda: client.call("DebitBalance", no_id, timeout_s=3))
        site.balancers[0].kill()
        error = flight.wait()
    assert isinstance(error, DeadlineExceeded)
    assert "may or may not have carried it out" in error.message
    key = error.data["request_id"]
    assert key
    with site.client(1, timeout_s=60) as client:
        assert client.call("DebitBalance", debit(str(key))) == ACCOUNTS["one"] - 7
        flight.end()
        assert client.call("DebitBalance", debit(str(key))) == ACCOUNTS["one"] - 7
    assert charged_once(site, str(key))


def ask_http(balancer: Balancer, key: str, cents: int = 7) -> tuple[int, bytes, str | None]:
    """Status, body, and what the header Idempotency-Replayed says."""
    connection = http.client.HTTPConnection(balancer.http.host, balancer.http.port, timeout=60)
    try:
        path = f"/debitbalance?cstmid={TENANT}&subj=one&dest=0256&amount={cents}"
        connection.request("GET", path, headers={"Idempotency-Key": key})
        response = connection.getresponse()
        return response.status, response.read(), response.headers["Idempotency-Replayed"]
    finally:
        connection.close()


@pytest.mark.parametrize(("point", "replayed"), [("before_write", None), ("after_write", "true")])
def test_an_http_request_that_was_cut_off_is_repeated_at_the_other_balancer(
    site: Site, point: str, replayed: str | None
) -> None:
    first, second = site.balancers
    flight = InFlight(site, point, lambda: ask_http(first, "k"))
    first.kill()
    assert isinstance(flight.wait(), ConnectionError)
    left = b"%d" % (ACCOUNTS["one"] - 7)
    assert ask_http(second, "k") == (200, left, replayed)
    flight.end()
    assert ask_http(second, "k") == (200, left, "true")
    assert ask_http(second, "k", cents=8)[0] == 422
    assert charged_once(site, "k")


# --- balancers that hang or end ------------------------------------------------------------------


def test_clients_leave_a_balancer_that_hangs_and_its_late_work_changes_nothing(site: Site) -> None:
    with Load(lambda _: both(site), ACCOUNTS) as load:
        load.wait(200)
        load.start_measuring()
        for _, balancer in zip(range(4), cycle(site.balancers), strict=False):
            balancer.pause()  # with requests in flight, and more in its sockets
            load.wait(100)
            balancer.resume()
            site.wait_ready()
            load.wait(100)
            load.recovered("balancer stopped", BACK_WITHIN_S)
    for balancer in site.balancers:
        assert balancer.terminate() == 0  # by now all is done that they had
    load.check(site)


def test_balancers_that_are_told_to_stop_send_their_clients_to_the_other(site: Site) -> None:
    with Load(lambda _: both(site), ACCOUNTS) as load:
        load.wait(200)
        load.start_measuring()
        for _, balancer in zip(range(4), cycle(site.balancers), strict=False):
            assert balancer.terminate() == 0
            load.wait(100)
            balancer.start()
            site.wait_ready()
            load.recovered("balancer told to stop", BACK_WITHIN_S)
    load.check(site)
