"""Who is let in at the router port, who is not, and what becomes of those whose keys are revoked."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import zmq

from balancer.dispatch import DispatchSettings
from balancer.gate import Gate
from balancer.peers import BalancerPeers, RouterPeers
from balancer.router import Router
from balancer.zmq_gateway import ZmqGateway
from common.addresses import Address
from common.clock import monotonic_us
from common.dealer import Dealer, DealerKeys
from common.methods import BY_NAME
from common.security.curve import Role, new_key
from common.wire import PROBE, Kind, decode, encode_done, encode_join, encode_state, encode_work
from tests.keyring import KeyRing

PATIENCE_S = 30.0
MOMENT_S = 0.7
"""In which nothing must happen: a handshake takes milliseconds, and more than one heartbeat has passed."""
LOOPBACK = Address("127.0.0.1", 0)


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    return KeyRing(tmp_path / "keys")


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield context
    context.destroy(linger=0)


@pytest.fixture(autouse=True)
def every_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("balancer.gate.WARN_EVERY_S", 0.0)
    monkeypatch.setattr("common.dealer.WARN_EVERY_S", 0.0)
    caplog.set_level(logging.INFO)


class Peer:
    """A rater or a client, as much of one as the balancer can see: it says one thing, again and again."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        port: int,
        name: str,
        keys: DealerKeys | None,
        says: bytes | None = None,
    ) -> None:
        self.says = encode_state(name, 10, 1) if says is None else says
        self.heard: list[tuple[Kind, list[Any]]] = []
        self.dealer = Dealer(context, LOOPBACK._replace(port=port), f"{name}-identity", keys)

    def close(self) -> None:
        self.dealer.close()

    def step(self) -> None:
        self.dealer.look()
        with suppress(zmq.Again):
            self.dealer.socket.send(self.says, zmq.NOBLOCK)
        while self.dealer.socket.poll(0):
            self.heard.append(decode(self.dealer.socket.recv()))

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self.step()
                await asyncio.sleep(0.02)

    async def for_a_moment(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(MOMENT_S):
                await self.until(lambda: False)

    @property
    def was_told(self) -> set[Kind]:
        return {kind for kind, _ in self.heard}

    @property
    def joined(self) -> bool:
        """The balancer beats back."""
        return any(kind in (Kind.BEAT, Kind.STATE) for kind, _ in self.heard)


class Balancer:
    def __init__(self, ring: KeyRing, *, gate: Gate | None = None) -> None:
        self.gate = gate or Gate(ring.server, ring.keys)
        self.peers = RouterPeers(self.gate)
        self.router = Router(DispatchSettings(), self.peers, "life")
        self.clients = ZmqGateway(self.router, "balancer", 10)
        self.port = self.peers.bind(LOOPBACK).port
        self.router.open()

    def close(self) -> None:
        self.router.close()

    @property
    def raters(self) -> int:
        return self.router.readiness.raters


Context = zmq.Context[zmq.Socket[bytes]]


def test_raters_and_clients_with_known_keys_are_let_in(ring: KeyRing, context: Context) -> None:
    async def run() -> None:
        with (
            closing(Balancer(ring)) as balancer,
            closing(Peer(context, balancer.port, "r1", ring.dealer_keys("r1", Role.RATER))) as rater,
        ):
            await rater.until(lambda: rater.joined and balancer.raters == 1)
            keys = ring.dealer_keys("gw", Role.CLIENT)
            with closing(Peer(context, balancer.port, "gw", keys, encode_join("gw"))) as client:
                await client.until(lambda: client.joined)

    asyncio.run(run())


def test_an_unknown_key_is_refused_on_both_sides_log_and_let_in_once_it_is_allowed(
    ring: KeyRing, context: Context, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        keys = ring.dealer_keys("r1", Role.RATER, allowed=False)
        with (
            closing(Balancer(ring)) as balancer,
            closing(Peer(context, balancer.port, "r1", keys)) as rater,
        ):
            await rater.until(lambda: "our key r1" in caplog.text and "refused peer" in caplog.text)
            await rater.for_a_moment()
            assert (rater.joined, balancer.raters) == (False, 0)
            assert f"refused peer=127.0.0.1 held_back=0: key {keys.own.public} is not" in caplog.text
            assert f"our key r1 ({keys.own.public}) is not authorized there" in caplog.text
            ring.allow("r1")
            await rater.until(lambda: balancer.raters == 1)
            assert "key=r1 role=rater allowed" in caplog.text

    asyncio.run(run())


def test_a_revoked_rater_gets_no_more_work_and_what_it_had_goes_to_another(
    ring: KeyRing, context: Context, caplog: pytest.LogCaptureFixture
) -> None:
    answers: list[bytes] = []

    async def run() -> None:
        first_keys, second_keys = (ring.dealer_keys(name, Role.RATER) for name in ("r1", "r2"))
        with (
            closing(Balancer(ring)) as balancer,
            closing(Peer(context, balancer.port, "r1", first_keys)) as first,
        ):
            await first.until(lambda: balancer.raters == 1)
            router = balancer.router
            router.submit(BY_NAME["GetCost"], b"{}", "", lambda code, body, _: answers.append(body))
            await first.until(lambda: any(kind is Kind.WORK for kind, _ in first.heard))
            ring.revoke("r1")
            await first.until(lambda: balancer.raters == 0)
            assert "key=r1 role=rater revoked" in caplog.text
            with closing(Peer(context, balancer.port, "r2", second_keys)) as second:
                await second.until(lambda: any(kind is Kind.WORK for kind, _ in second.heard))
                [work] = [fields for kind, fields in second.heard if kind is Kind.WORK]
                await first.for_a_moment()
                first.heard.clear()  # what was on its way before
                # The revoked one still has its connection, and answers first.
                first.says = encode_done("life", [(work[2][0][0], 0, b'"forged"', False)])
                await first.for_a_moment()
                assert (answers, first.heard) == ([], [])
                assert "is not authorized any more" in caplog.text
                second.says = encode_done("life", [(work[2][0][0], 0, b"1", False)])
                await second.until(lambda: answers)

    asyncio.run(run())
    assert answers == [b"1"]


def test_a_revoked_client_is_forgotten_and_a_new_key_of_its_name_does_not_bring_it_back(
    ring: KeyRing, context: Context, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        keys = ring.dealer_keys("gw", Role.CLIENT)
        with (
            closing(Balancer(ring)) as balancer,
            closing(Peer(context, balancer.port, "gw", keys, encode_join("gw"))) as client,
        ):
            await client.until(lambda: client.joined)
            ring.revoke("gw")
            await client.until(lambda: "client=gw is gone" in caplog.text)
            for suffix in (".key", ".pub"):
                (ring.folder / f"gw{suffix}").unlink()
            ring.new("gw", Role.CLIENT, allowed=True)
            await client.until(lambda: caplog.text.count("key=gw role=client allowed") == 1)
            await client.for_a_moment()
            client.heard.clear()  # what was on its way before
            await client.for_a_moment()
            assert not client.joined

    asyncio.run(run())


def test_a_clients_key_does_not_serve_to_join_as_a_rater(
    ring: KeyRing, context: Context, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        with (
            closing(Balancer(ring)) as balancer,
            closing(Peer(context, balancer.port, "thief", ring.dealer_keys("thief", Role.CLIENT))) as thief,
        ):
            await thief.until(lambda: "may not send STATE" in caplog.text)
            await thief.for_a_moment()
            assert (balancer.raters, thief.was_told) == (0, {Kind.BEAT})  # in answer to its connection

    asyncio.run(run())


def test_a_raters_key_does_not_serve_to_send_requests(
    ring: KeyRing, context: Context, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        with (
            closing(Balancer(ring)) as balancer,
            closing(Peer(context, balancer.port, "thief", ring.dealer_keys("thief", Role.RATER))) as thief,
        ):
            for says in (encode_join("thief"), encode_work("thief", monotonic_us(), [])):
                thief.says = says
                name = decode(says)[0].name
                await thief.until(lambda name=name: f"may not send {name}" in caplog.text)
            await thief.for_a_moment()
            assert (balancer.router.unanswered, thief.was_told) == (0, {Kind.BEAT})

    asyncio.run(run())


def test_nobody_speaks_for_the_connection_of_another_key(
    ring: KeyRing, context: Context, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        with (
            closing(Balancer(ring)) as balancer,
            closing(Peer(context, balancer.port, "r1", ring.dealer_keys("r1", Role.RATER))) as rater,
        ):
            await rater.until(lambda: balancer.raters == 1)
            # The same identity, which is how ZeroMQ tells peers apart.
            with closing(Peer(context, balancer.port, "r1", ring.dealer_keys("r2", Role.RATER))) as other:
                await other.until(lambda: "took the place of another's connection" in caplog.text)

    asyncio.run(run())


def test_a_connection_is_answered_at_once_without_waiting_for_a_heartbeat(
    ring: KeyRing, context: Context, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        keys = ring.dealer_keys("r1", Role.RATER)
        with (
            closing(Balancer(ring)) as balancer,
            closing(Dealer(context, LOOPBACK._replace(port=balancer.port), "r1", keys)) as dealer,
        ):
            async with asyncio.timeout(PATIENCE_S):
                while not dealer.socket.poll(0):  # nothing is said but ZeroMQ's own greeting
                    await asyncio.sleep(0.01)
            assert decode(dealer.socket.recv())[0] is Kind.BEAT
            assert "message dropped" not in caplog.text

    asyncio.run(run())


# --- whatever fails is a closed door ----------------------------------------------------------------


async def refused(peer: Peer, balancer: Balancer) -> None:
    await peer.for_a_moment()
    assert (peer.joined, balancer.raters) == (False, 0)


def test_without_an_authenticator_nobody_is_let_in(
    ring: KeyRing, context: Context, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("balancer.gate.HANDSHAKE_MS", 300)
    monkeypatch.setattr(Gate, "open", lambda *_, **__: None)

    async def run() -> None:
        with (
            closing(Balancer(ring)) as balancer,
            closing(Peer(context, balancer.port, "r1", ring.dealer_keys("r1", Role.RATER))) as rater,
        ):
            said = "held_back=0: it did not finish the handshake"
            await rater.until(lambda: said in caplog.text and "or its authenticator is gone" in caplog.text)
            await refused(rater, balancer)

    asyncio.run(run())


def test_an_authenticator_that_never_answers_lets_nobody_in(
    ring: KeyRing, context: Context, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("balancer.gate.HANDSHAKE_MS", 300)
    monkeypatch.setattr(Gate, "_answer_all", lambda _: None)

    async def run() -> None:
        with (
            closing(Balancer(ring)) as balancer,
            closing(Peer(context, balancer.port, "r1", ring.dealer_keys("r1", Role.RATER))) as rater,
        ):
            await rater.until(lambda: "it did not finish the handshake" in caplog.text)
            await refused(rater, balancer)

    asyncio.run(run())


def test_an_authenticator_that_fails_closes_the_door_says_so_and_keeps_those_who_are_in(
    ring: KeyRing, context: Context, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        with (
            closing(Balancer(ring)) as balancer,
            closing(Peer(context, balancer.port, "r1", ring.dealer_keys("r1", Role.RATER))) as rater,
        ):
            await rater.until(lambda: balancer.raters == 1)

            def fail(*_: object) -> None:
                raise RuntimeError("odd")

            monkeypatch.setattr(balancer.gate, "_decide", fail)
            keys = ring.dealer_keys("r2", Role.RATER)
            with closing(Peer(context, balancer.port, "r2", keys)) as other:
                await other.until(lambda: "the authenticator failed: nobody new is let in" in caplog.text)
                await other.for_a_moment()
                assert not other.joined
                rater.heard.clear()
                await rater.until(lambda: rater.joined)
                assert balancer.raters == 1

    asyncio.run(run())


@pytest.mark.parametrize("how", ["gone", "open to others", "no folder"])
def test_a_folder_that_cant_be_relied_on_lets_nobody_in_until_it_can(
    ring: KeyRing, context: Context, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    hidden = ring.folder / "hidden"

    def damage() -> None:
        if how == "open to others":
            ring.authorized.chmod(0o777)
            return
        ring.authorized.rename(hidden)
        if how == "no folder":
            ring.authorized.write_text("")

    def mend() -> None:
        if how == "open to others":
            ring.authorized.chmod(0o755)
            return
        if how == "no folder":
            ring.authorized.unlink()
        hidden.rename(ring.authorized)

    async def run() -> None:
        first_keys, second_keys = (ring.dealer_keys(name, Role.RATER) for name in ("r1", "r2"))
        with (
            closing(Balancer(ring)) as balancer,
            closing(Peer(context, balancer.port, "r1", first_keys)) as first,
        ):
            await first.until(lambda: balancer.raters == 1)
            damage()
            await first.until(lambda: "nobody new is let in" in caplog.text)
            with closing(Peer(context, balancer.port, "r2", second_keys)) as second:
                await second.until(
                    lambda: "it lets nobody in now: its authenticator answers 500" in caplog.text
                )
                await second.for_a_moment()
                assert not second.joined
                first.heard.clear()
                await first.until(lambda: first.joined)
                mend()
                await second.until(lambda: second.joined)
                assert "keys can be read again" in caplog.text

    asyncio.run(run())


def test_a_damaged_file_is_no_key_and_the_others_are(
    ring: KeyRing, context: Context, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        with (
            closing(Balancer(ring)) as balancer,
            closing(Peer(context, balancer.port, "r1", ring.dealer_keys("r1", Role.RATER))) as rater,
        ):
            await rater.until(lambda: balancer.raters == 1)
            (ring.authorized / "r1.pub").write_text("nonsense")
            (ring.authorized / "r2.pub").write_text("nonsense")
            await rater.until(lambda: balancer.raters == 0)
            assert caplog.text.count("r2.pub is not a key file") == 1
            with closing(Peer(context, balancer.port, "r3", ring.dealer_keys("r3", Role.RATER))) as other:
                await other.until(lambda: other.joined)

    asyncio.run(run())


# --- those that have no key that fits -----------------------------------------------------------------


def test_a_peer_without_a_key_is_refused(
    ring: KeyRing, context: Context, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        with (
            closing(Balancer(ring)) as balancer,
            closing(Peer(context, balancer.port, "r1", None)) as rater,
        ):
            # Whoever sees first that they don't fit hangs up, and the other one may see no more than that.
            await rater.until(
                lambda: re.search(r"refused peer=\S+ held_back=0: it has no CURVE", caplog.text)
            )
            await rater.until(lambda: "it wants a key, and we have none (--curve-key)" in caplog.text)
            await refused(rater, balancer)

    asyncio.run(run())


def test_a_balancer_that_is_not_the_one_meant_is_not_spoken_to(
    ring: KeyRing, context: Context, caplog: pytest.LogCaptureFixture
) -> None:
    other = new_key("other", Role.BALANCER).public

    async def run() -> None:
        keys = ring.dealer_keys("r1", Role.RATER)._replace(server=other)
        with closing(Balancer(ring)) as balancer, closing(Peer(context, balancer.port, "r1", keys)) as rater:
            await rater.until(lambda: "it was given another key than this balancer's" in caplog.text)
            said = "its key is not the one that we were given (--curve-server-key)"
            await rater.until(lambda: said in caplog.text)
            await refused(rater, balancer)

    asyncio.run(run())


def test_a_gateway_with_a_key_does_not_speak_to_a_balancer_without_and_finds_it_once_it_has_one(
    ring: KeyRing, caplog: pytest.LogCaptureFixture
) -> None:
    async def join(gateway: BalancerPeers, until: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not until():
                with suppress(zmq.ZMQError):
                    gateway.send(gateway.asked[0], encode_join("gw"))
                await asyncio.sleep(0.02)

    async def run() -> None:
        keys = ring.dealer_keys("gw", Role.CLIENT)
        plain = RouterPeers()
        address = plain.bind(LOOPBACK)
        with closing(BalancerPeers([address], "gw", [keys])) as gateway:
            await join(gateway, lambda: "it has no CURVE, and we insist on it" in caplog.text)
            assert not plain.has_input()
            plain.close()
            gate = Gate(ring.server, ring.keys)
            with closing(RouterPeers(gate)) as secured:
                secured.bind(address)
                secured.watch(lambda: None, lambda: None)
                taken: list[bytes] = []

                def take() -> bool:
                    if secured.has_input():
                        taken.append(secured.receive().frame)
                    return encode_join("gw") in taken

                await join(gateway, take)
                assert set(taken) == {PROBE, encode_join("gw")}

    asyncio.run(run())
