"""/status.json and /events of a real balancer, with raters that only speak the protocol."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from common.about import About, NodeHealth, StoreHealth, encode
from common.errors import NoRate, encode_error
from common.wire import Reply, WorkItem, encode_about
from tests.integration.balancer_process import PATIENCE_S, BalancerProcess
from tests.integration.fake_rater import FakeRater, hold

QUERY = "cstmid=vdf&subj=rif&dest=0257"
NODES = (NodeHealth("h:1", True, 1000, 2000, 1), NodeHealth("h:2"))
STORE = StoreHealth(True, "redis+cluster://h:1", 1000, 2000, 300, NODES)
ABOUT = About("9.9", 0.5, {"vdf": 4, "acme": 2}, STORE)


@pytest.fixture
def balancer() -> Iterator[BalancerProcess]:
    with BalancerProcess() as process:
        yield process


def status(balancer: BalancerProcess, query: str = "") -> Any:
    reply = balancer.get("/status.json" + query)
    assert reply.status == 200
    return reply.body


def until(balancer: BalancerProcess, holds: Any) -> Any:
    """The first status of which that holds; events come by themselves, so nobody polls."""
    with events(balancer) as stream:
        for event in stream:
            if holds(event):
                return event
    raise AssertionError("the events ended")


@contextmanager
def events(balancer: BalancerProcess) -> Iterator[Iterator[Any]]:
    with socket.create_connection(("127.0.0.1", balancer.http_port), PATIENCE_S) as sock:
        sock.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        with sock.makefile("rb") as lines:
            head = [line.strip().lower() for line in iter(lines.readline, b"\r\n")]
            assert head[0] == b"http/1.1 200 ok"
            assert b"content-type: text/event-stream" in head
            yield (json.loads(line[6:]) for line in lines if line.startswith(b"data: "))


def test_a_front_alone_says_that_it_has_nothing(balancer: BalancerProcess) -> None:
    found = status(balancer, "?history=1")
    assert found["raters"] == []
    assert found["methods"] == {}
    assert found["all"]["total"] == 0
    assert found["queue"] == {
        "unanswered": 0,
        "waiting": 0,
        "bytes": 0,
        "room": 20_000,
        "overloaded": False,
        "turned_away": 0,
    }
    assert not found["draining"]
    assert found["now"].endswith("Z")
    assert "history" not in status(balancer)


def test_answers_are_told_by_method_and_outcome(balancer: BalancerProcess) -> None:
    refusal = NoRate(tenant="vdf", subject="rif", destination="9")

    def respond(item: WorkItem) -> Reply:
        if b'"0258"' in item.params:
            return Reply(item.seq, refusal.code, encode_error(refusal), False)
        return Reply(item.seq, 0, b"1", bool(item.key))

    with FakeRater(balancer.router_port, respond) as rater:
        rater.wait_for(lambda rater: rater.joined)
        for _ in range(3):
            assert balancer.get(f"/getcost?{QUERY}").status == 200
        assert balancer.get("/getcost?cstmid=vdf&subj=rif&dest=0258").status == 404
        with balancer.connect() as connection:
            connection.call(1, "DebitBalance")
        found = until(balancer, lambda event: event["all"]["total"] == 5 and event["second"])
        history = status(balancer, "?history=1")["history"]
    assert found["methods"]["GetCost"]["outcomes"] == {"ok": 3, "no_rate": 1}
    assert found["methods"]["DebitBalance"]["total"] == 1
    assert found["all"]["outcomes"] == {"ok": 4, "no_rate": 1}
    assert found["methods"]["GetCost"]["errors_per_s"] == 0
    assert sum(row["methods"].get("GetCost", [0])[0] for row in history) <= 4
    for row in history:
        assert row["all"][0] == sum(each[0] for each in row["methods"].values())


def test_current_figures_follow_the_answers(balancer: BalancerProcess) -> None:
    with FakeRater(balancer.router_port) as rater:
        rater.wait_for(lambda rater: rater.joined)
        assert balancer.get(f"/getcost?{QUERY}").status == 200
        found = until(balancer, lambda event: event["all"]["answers_per_s"] > 0)
        figures = found["methods"]["GetCost"]
        assert 0 < figures["p50_us"] <= figures["p90_us"] <= figures["p99_us"]
        counted = status(balancer, "?history=1")["history"]
        assert sum(row["methods"].get("GetCost", [0])[0] for row in counted) == 1


def test_raters_are_told_with_what_they_say_of_themselves(balancer: BalancerProcess) -> None:
    with FakeRater(balancer.router_port, hold, name="one", credit=12, epoch=3) as rater:
        rater.wait_for(lambda rater: rater.joined)
        [before] = until(balancer, lambda event: event["raters"])["raters"]
        assert (before["state"], before["version"], before["store"]) == ("working", "", None)
        rater.send_raw(encode_about(b"nonsense"))
        rater.send_raw(encode_about(encode(ABOUT)))
        found = until(balancer, lambda event: event["raters"][0]["version"])
        [told] = found["raters"]
        assert told | {"seen_ms_ago": 0} == {
            "name": "one",
            "state": "working",
            "credit": 12,
            "in_flight": 0,
            "busy": 0.5,
            "speed_per_s": 0,
            "tariff_epoch": 3,
            "seen_ms_ago": 0,
            "version": "9.9",
            "store": {
                "ok": True,
                "url": "redis+cluster://h:1",
                "used_memory": 1000,
                "max_memory": 2000,
                "round_trip_us": 300,
                "nodes": [
                    {
                        "address": "h:1",
                        "ok": True,
                        "used_memory": 1000,
                        "max_memory": 2000,
                        "replicas": 1,
                    },
                    {"address": "h:2", "ok": False, "used_memory": 0, "max_memory": 0, "replicas": 0},
                ],
            },
        }
        assert found["tariffs"] == {"acme": 2, "vdf": 4}
        assert 0 <= told["seen_ms_ago"] < 60_000
        rater.send_raw(encode_about(encode(About(store=StoreHealth(ok=False)))))
        until(balancer, lambda event: event["raters"][0]["state"] == "no store")


def test_a_rater_without_tariff_is_told_apart(balancer: BalancerProcess) -> None:
    with FakeRater(balancer.router_port, epoch=0):
        until(balancer, lambda event: [rater["state"] for rater in event["raters"]] == ["no tariff"])


def test_a_silent_rater_is_told_apart(balancer: BalancerProcess) -> None:
    with FakeRater(balancer.router_port) as rater:
        rater.wait_for(lambda rater: rater.joined)
        rater.beating = False
        until(balancer, lambda event: [each["state"] for each in event["raters"]] == ["silent"])


def test_events_end_with_the_front(balancer: BalancerProcess) -> None:
    with events(balancer) as stream:
        assert next(stream)["second"] is None
        balancer.process.terminate()
        assert all(not event["draining"] for event in stream)
    assert balancer.process.wait(PATIENCE_S) == 0


def test_only_reading_is_allowed(balancer: BalancerProcess) -> None:
    for path in ("/status.json", "/events"):
        assert balancer.request("POST", path).status == 405
        assert balancer.request("HEAD", path).status == 200
