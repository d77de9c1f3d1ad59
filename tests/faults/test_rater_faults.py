"""Raters that die, stall and are cut off, at every moment: what clients were told is what was done."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import DeadlineExceeded, Quarantined
from tests.faults.load import Load
from tests.faults.nodes import TENANT, Site, wait_until
from tests.faults.proxy import Proxy

ACCOUNTS = {"one": 1_000_000, "two": 1_000_000, "three": 1_000_000}
PROMISE_S = 4.0
DEADLINE_S = 2.0
"""Of the balancer, where a test waits for it: longer than its patience with a silent rater."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path / "site", raters=2) as site:
        site.start(ACCOUNTS)
        yield site


@pytest.fixture
def hasty(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    """As many raters as the parameter says, and a short deadline."""
    options = ["--deadline", str(round(DEADLINE_S * 1000))]
    with Site(tmp_path / "site", raters=request.param, balancer_options=options) as site:
        site.start(ACCOUNTS)
        yield site


def pass_time_until(monotonic_s: float) -> None:
    wait_until(lambda: time.monotonic() >= monotonic_s, "time passes")


def debit(key: str) -> dict[str, str | int]:
    return {"CstmId": TENANT, "Subject": "one", "Amount": 7, "RequestId": key}


# --- killed -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "point", ["before_write", "after_write", pytest.param("after_reply", marks=pytest.mark.source)]
)
def test_a_rater_killed_at_this_point_costs_no_client_an_error(site: Site, point: str) -> None:
    with Load(lambda _: site.client(), ACCOUNTS) as load:
        load.wait(100)
        for _ in range(3):
            load.start_measuring()
            dead = site.strike(point, "kill")
            load.wait(100)
            dead.start()
            site.wait_ready()
            load.recovered(f"rater killed {point}", PROMISE_S)
    load.check(site)


def test_killing_the_only_rater_is_over_when_it_runs_again(tmp_path: Path) -> None:
    with Site(tmp_path / "site", raters=1) as site:
        site.start(ACCOUNTS)
        with Load(lambda _: site.client(), ACCOUNTS) as load:
            load.wait(100)
            load.start_measuring()
            site.strike("after_write", "kill").start()
            load.wait(100)
            load.recovered("only rater killed and started again", PROMISE_S)
        load.check(site, "overloaded")


def test_a_rater_that_is_told_to_end_costs_no_client_an_error(site: Site) -> None:
    with Load(lambda _: site.client(), ACCOUNTS) as load:
        for rater in site.raters:
            load.wait(100)
            load.start_measuring()
            assert rater.terminate() == 0
            load.wait(100)
            rater.start()
            site.wait_ready()
            load.recovered("rater told to end (SIGTERM)", PROMISE_S)
    load.check(site)


@pytest.mark.source
def test_a_request_that_kills_raters_is_given_up_after_two(tmp_path: Path) -> None:
    with Site(tmp_path / "site", raters=3) as site:
        site.start(ACCOUNTS)
        with Load(lambda _: site.client(), ACCOUNTS) as load, site.client() as client:
            load.wait(100)
            load.start_measuring()
            with pytest.raises(Quarantined):
                client.call("DebitBalance", {"CstmId": TENANT, "Subject": "poison", "Amount": 1})
            dead = [rater for rater in site.raters if not rater.alive]
            assert len(dead) == 2
            load.wait(100)
            for rater in dead:
                rater.start()
            site.wait_ready()
            load.wait(100)
            load.recovered("request that crashes raters", PROMISE_S)
        # Those that were with it at both raters are suspects, too. They are told so, and sent again.
        load.check(site, "quarantined")


# --- stalled ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("hasty", [2], indirect=True)
@pytest.mark.parametrize("point", ["before_write", "after_write"])
def test_a_rater_that_wakes_after_its_work_was_done_elsewhere_does_not_do_it_again(
    hasty: Site, point: str
) -> None:
    with Load(lambda _: hasty.client(), ACCOUNTS) as load:
        load.wait(100)
        load.start_measuring()
        stalled = hasty.strike(point, "stop")
        pass_time_until(time.monotonic() + DEADLINE_S + 0.5)
        load.wait(100)
        load.recovered(f"rater stalled {point}", PROMISE_S)
        stalled.resume()
        hasty.wait_ready()
        load.wait(100)
    load.check(hasty)


@pytest.mark.parametrize("hasty", [1], indirect=True)
@pytest.mark.parametrize("point", ["before_write", "after_write"])
def test_what_an_only_rater_has_when_it_stalls_is_not_written_after_the_deadline(
    hasty: Site, point: str
) -> None:
    load = Load(lambda _: hasty.client(), ACCOUNTS)
    ledger = load.ledger
    with hasty.client() as client, hasty.client() as waiting:
        ledger.intend("late", "one", 7)
        hasty.points.arm(point, "stop")
        began_s = time.monotonic()
        call = waiting.submit("DebitBalance", debit("late"))
        with pytest.raises(DeadlineExceeded, match="unknown"):
            call.result()
        pass_time_until(began_s + DEADLINE_S + 0.5)
        [stalled] = hasty.raters
        assert hasty.points.taken(point) == [stalled.pid]
        stalled.resume()
        hasty.wait_ready()
        ledger.intend("after", "one", 7)  # from the same rater, so the late work is over when this is
        left = client.call("DebitBalance", debit("after"))
        ledger.acknowledge("after", left)
        assert left == ACCOUNTS["one"] - (7 if point == "before_write" else 14)
        # Asking again with the key tells what became of it, and does it where it was not done.
        ledger.acknowledge("late", client.call("DebitBalance", debit("late")))
    load.check(hasty)


@pytest.mark.parametrize("point", ["before_write", "after_write"])
def test_an_only_rater_that_wakes_before_the_deadline_answers_what_it_had(tmp_path: Path, point: str) -> None:
    with Site(tmp_path / "site", raters=1) as site:
        site.start(ACCOUNTS)
        with Load(lambda _: site.client(), ACCOUNTS) as load:
            load.wait(100)
            load.start_measuring()
            stalled = site.strike(point, "stop")
            stalled_s = time.monotonic()
            pass_time_until(stalled_s + 2.0)
            stalled.resume()
            lasted_s = time.monotonic() - stalled_s
            load.wait(100)
            load.recovered(f"only rater stalled for 2 s {point}", PROMISE_S, lasted_s=lasted_s)
        load.check(site)


# --- cut off ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["towards_target", "towards_client"])
def test_a_rater_cut_off_from_the_balancer_in_one_direction(tmp_path: Path, direction: str) -> None:
    site = Site(tmp_path / "site", raters=1)
    with site, Proxy(site.balancers[0].router) as proxy:
        site.raters.append(site.rater("far", routers=[proxy.address]))
        site.start(ACCOUNTS)
        with Load(lambda _: site.client(), ACCOUNTS) as load:
            load.wait(100)
            load.start_measuring()
            cut(proxy, direction)
            site.wait_for_loss(1)
            load.wait(300)
            load.recovered(f"rater and balancer cut off {direction}", PROMISE_S)
            proxy.heal()
            site.wait_ready()
            load.wait(100)
        load.check(site)


@pytest.mark.parametrize("direction", ["towards_target", "towards_client"])
def test_a_rater_cut_off_from_the_store_in_one_direction(tmp_path: Path, direction: str) -> None:
    site = Site(tmp_path / "site", raters=1)
    assert site.store is not None
    with site, Proxy(site.store.socket) as proxy:
        site.raters.append(site.rater("far", store_url=f"redis://{proxy.address}"))
        site.start(ACCOUNTS)
        with Load(lambda _: site.client(), ACCOUNTS) as load:
            load.wait(100)
            load.start_measuring()
            cut(proxy, direction)
            site.wait_for_loss(1)
            load.wait(300)
            load.recovered(f"rater and store cut off {direction}", PROMISE_S)
            proxy.heal()
            site.wait_ready()
            load.wait(100)
        load.check(site)


def cut(proxy: Proxy, direction: str) -> None:
    proxy.cut(towards_target=direction == "towards_target", towards_client=direction == "towards_client")
