"""A real balancer process and raters that come, go, die, stall and talk nonsense."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from balancer.dispatch import DispatchSettings
from balancer.peers import RouterPeers
from balancer.router import Router
from common.addresses import Address
from common.methods import BY_NAME
from common.wire import PROBE, PROTOCOL, Reply, WorkItem, encode_beat, encode_done, encode_state
from tests.integration.balancer_process import BalancerProcess, message
from tests.integration.fake_rater import PATIENCE_S, FakeRater, echo, hold

ROOT = Path(__file__).resolve().parents[2]


def test_requests_wait_for_the_first_rater() -> None:
    with BalancerProcess("--deadline", "60000") as balancer, balancer.connect() as connection:
        connection.send([message(1), message(2)])
        assert balancer.get("/healthz").status == 200
        with FakeRater(balancer.router_port):
            assert [reply["result"] for reply in connection.replies(2)] == [1, 1]


def test_past_the_deadline_the_answer_is_an_error_that_says_why() -> None:
    with BalancerProcess("--deadline", "300") as balancer, balancer.connect() as connection:
        assert "the deadline has passed: after 300 ms no rater is there" in connection.call(1)["error"]
        with FakeRater(balancer.router_port, hold) as rater:
            rater.wait_for(lambda rater: rater.joined)
            assert "did not reply" in connection.call(2)["error"]
            reply = balancer.get("/getcost?cstmid=vdf&subj=rif&dest=0257")
            assert (reply.status, reply.body["error"]["name"]) == (504, "deadline_exceeded")
            rater.release()
            assert connection.call(3)["result"] == 1


def test_beyond_max_queued_the_answer_is_overloaded() -> None:
    with (
        BalancerProcess("--max-queued", "10") as balancer,
        FakeRater(balancer.router_port, hold) as rater,
        balancer.connect() as connection,
    ):
        connection.send(message(number) for number in range(10))
        rater.wait_for_items(10)
        assert "overloaded: 10 requests" in connection.call(99)["error"]
        reply = balancer.get("/getcost?cstmid=vdf&subj=rif&dest=0257")
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        rater.release()
        assert {reply["id"] for reply in connection.replies(10)} == set(range(10))


def test_a_killed_raters_requests_are_done_by_another_under_the_same_numbers() -> None:
    with BalancerProcess("--deadline", "60000") as balancer, balancer.connect() as connection:
        victim = FakeRater(balancer.router_port, hold, name="victim")
        victim.wait_for(lambda rater: rater.joined)
        connection.send(message(number, "DebitBalance", Amount=number) for number in range(40))
        given = victim.wait_for_items(40)
        victim.kill()
        with FakeRater(balancer.router_port, echo, name="heir") as heir:
            replies = connection.replies(40)
        assert [reply["result"]["Amount"] for reply in replies] == [reply["id"] for reply in replies]
        assert heir.received == given


def test_a_silent_raters_requests_go_to_another_one() -> None:
    with (
        BalancerProcess("--deadline", "60000") as balancer,
        balancer.connect() as connection,
        FakeRater(balancer.router_port, hold, name="silent") as silent,
    ):
        silent.wait_for(lambda rater: rater.joined)
        connection.send([message(1)])
        silent.wait_for_items(1)
        silent.beating = False
        balancer.wait_for_line("rater=silent is silent")
        with FakeRater(balancer.router_port, name="other") as other:
            assert connection.reply()["result"] == 1
        assert other.received == silent.received


def test_a_stalled_rater_that_still_beats_is_overtaken_by_another_one() -> None:
    with (
        BalancerProcess("--deadline", "60000") as balancer,
        balancer.connect() as connection,
        FakeRater(balancer.router_port, hold, name="stalled") as stalled,
    ):
        stalled.wait_for(lambda rater: rater.joined)
        connection.send([message(1)])
        stalled.wait_for_items(1)
        with FakeRater(balancer.router_port, name="other") as other:
            assert connection.reply()["result"] == 1
        assert other.received == stalled.received
        stalled.release()
        assert balancer.get("/healthz").status == 200


def test_a_request_that_kills_two_raters_is_given_up() -> None:
    with BalancerProcess("--deadline", "60000") as balancer, balancer.connect() as connection:
        connection.send([message(1)])
        for name in ("first", "second"):
            victim = FakeRater(balancer.router_port, hold, name=name)
            victim.wait_for_items(1)
            victim.kill()
            balancer.wait_for_line(f"rater={name}")
        assert "quarantined" in connection.reply()["error"]


def test_a_request_whose_raters_fall_silent_one_after_the_other_is_not_given_up() -> None:
    with BalancerProcess("--deadline", "60000") as balancer, balancer.connect() as connection:
        connection.send([message(1)])
        with ExitStack() as raters:
            for name in ("first", "second"):
                busy = raters.enter_context(FakeRater(balancer.router_port, hold, name=name))
                busy.wait_for_items(1)
                busy.beating = False
                balancer.wait_for_line(f"rater={name} is silent")
            raters.enter_context(FakeRater(balancer.router_port, name="third"))
            assert connection.reply()["result"] == 1


def test_a_busy_raters_late_reply_counts() -> None:
    with (
        BalancerProcess("--deadline", "60000") as balancer,
        balancer.connect() as connection,
        FakeRater(balancer.router_port, hold, name="busy") as busy,
    ):
        busy.wait_for(lambda rater: rater.joined)
        connection.send([message(1)])
        busy.wait_for_items(1)
        busy.beating = False
        balancer.wait_for_line("rater=busy is silent")
        busy.release()
        assert connection.reply()["result"] == 1
        balancer.wait_for_line("rater=busy is heard again")
        assert len(busy.received) == 1


def test_a_rater_that_vanishes_without_a_word_is_disconnected() -> None:
    with BalancerProcess() as balancer:
        command = [sys.executable, "-m", "tests.integration.fake_rater", str(balancer.router_port)]
        process = subprocess.Popen(command, cwd=ROOT)
        try:
            balancer.wait_for_line("rater=fake joins")
            process.send_signal(signal.SIGSTOP)
            balancer.wait_for_line("rater=fake lost")
        finally:
            process.kill()
            process.wait()


FAULTY = [(-32000, b"nope"), (-32000, b"{}"), (0, b"")]


def test_a_faulty_reply_is_an_internal_error_and_the_replies_beside_it_count() -> None:
    def respond(item: WorkItem) -> Reply:
        code, body = FAULTY[item.seq % 4] if item.seq % 4 < len(FAULTY) else (0, b"1")
        return Reply(item.seq, code, body, False)

    with BalancerProcess() as balancer, balancer.connect() as connection:
        connection.send(message(number) for number in range(1, 9))
        with FakeRater(balancer.router_port, respond, name="odd"):
            replies = {reply["id"]: reply for reply in connection.replies(8)}
            assert balancer.get("/getcost?cstmid=vdf&subj=rif&dest=0257").status == 500
        for number, reply in replies.items():
            if number % 4 == 3:
                assert reply["result"] == 1
            else:
                assert "rater odd made a faulty reply" in reply["error"]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.001)


def test_the_end_of_a_connection_is_seen_without_waiting_for_a_heartbeat(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("balancer.router.HEARTBEAT_MS", 10**9)

    async def run() -> None:
        peers = RouterPeers()
        with closing(Router(DispatchSettings(), peers, "id")) as router:
            port = peers.bind(Address("127.0.0.1", 0)).port
            router.open()
            victim = FakeRater(port, name="victim")
            try:
                await until(lambda: router.readiness.raters == 1)
            finally:
                victim.kill()
            await until(lambda: router.readiness.raters == 0 and not router._dispatch.rater_ids())

    asyncio.run(run())


def test_an_answer_that_its_gateway_cannot_take_costs_the_others_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    taken: list[bytes] = []

    def take(code: int, body: bytes, replayed: bool) -> None:
        taken.append(body)
        if len(taken) == 1:
            raise ValueError("odd")

    async def run() -> None:
        peers = RouterPeers()
        with closing(Router(DispatchSettings(max_queued=3), peers, "id")) as router:
            port = peers.bind(Address("127.0.0.1", 0)).port
            router.open()
            for _ in range(4):
                router.submit(BY_NAME["GetCost"], b"{}", "", take)
            assert len(taken) == 1, "the fourth is refused at once"
            rater = FakeRater(port)
            try:
                await until(lambda: len(taken) == 4)
            finally:
                await asyncio.to_thread(rater.stop)

    asyncio.run(run())
    assert taken[1:] == [b"1"] * 3
    [record] = [record for record in caplog.records if record.exc_info]
    assert record.getMessage() == "an answer failed method=GetCost code=-32030"


def test_a_leaving_rater_is_told_that_it_is_drained_and_gets_no_more_work() -> None:
    with (
        BalancerProcess() as balancer,
        balancer.connect() as connection,
        FakeRater(balancer.router_port, hold, name="leaver") as leaver,
    ):
        leaver.wait_for(lambda rater: rater.joined)
        connection.send([message(1)])
        leaver.wait_for_items(1)
        leaver.leave()
        leaver.wait_for(lambda rater: rater.drained)
        assert balancer.get("/readyz").status == 503
        with FakeRater(balancer.router_port) as other:
            assert connection.call(2)["id"] == 2
            leaver.release()
            assert connection.reply()["id"] == 1
            leaver.goodbye()
            balancer.wait_for_line("rater=leaver says goodbye")
        assert len(leaver.received) == len(other.received) == 1


OLDER = encode_state("other", 100, 1).replace(bytes([4, PROTOCOL]), bytes([4, PROTOCOL + 1]), 1)


@pytest.mark.parametrize(
    ("frame", "complaint"),
    [
        (PROBE, None),
        (b"\xc1", "not"),
        (b"\x90", "not a message"),
        (b"nonsense", "not"),
        (encode_beat("x", 1), "a BEAT of a client that has not joined"),
        (OLDER, f"protocol {PROTOCOL + 1}, this process speaks {PROTOCOL}"),
        (encode_done("a predecessor", [Reply(1, 0, b"2", False)]), None),
    ],
)
def test_nonsense_from_a_peer_is_ignored(frame: bytes, complaint: str | None) -> None:
    with (
        BalancerProcess() as balancer,
        balancer.connect() as connection,
        FakeRater(balancer.router_port, hold, name="odd") as odd,
    ):
        odd.wait_for(lambda rater: rater.joined)
        connection.send([message(1)])
        odd.wait_for_items(1)
        odd.send_raw(frame)
        odd.release()
        assert connection.reply()["result"] == 1
        if complaint:
            assert complaint in balancer.wait_for_line("bad message")
        assert balancer.get("/readyz").body["raters"] == 1


def test_a_batch_too_large_for_one_message_leaves_in_several() -> None:
    with BalancerProcess("--deadline", "60000") as balancer, balancer.connect() as connection:
        connection.send(message(number, Subject="s" * 900_000) for number in range(40))
        with FakeRater(balancer.router_port) as rater:
            assert {reply["id"] for reply in connection.replies(40)} == set(range(40))
        assert len(rater.received) == 40


def test_no_rater_has_more_in_flight_than_its_credit() -> None:
    with (
        BalancerProcess() as balancer,
        balancer.connect() as connection,
        FakeRater(balancer.router_port, hold, credit=3) as rater,
    ):
        connection.send(message(number) for number in range(10))
        rater.wait_for_items(3)
        assert balancer.get("/readyz").status == 200  # a round trip later, it is still so
        assert len(rater.received) == 3
        rater.release()
        assert len(connection.replies(10)) == 10
