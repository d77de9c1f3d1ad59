"""Clients that never read, and clients that come and go by the thousand, on real processes.

What they cost is bounded, it is given back, and nobody else is served worse for them than by an error.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from decimal import Decimal
from pathlib import Path

import pytest

from common.addresses import Address
from tests.faults.ledger import Ledger
from tests.faults.nodes import PATIENCE_S, TENANT, Site, wait_until

STUCK_S = 2
SUBJECTS = {f"s{number}": 1_000_000 for number in range(8)}
RESET = struct.pack("ii", 1, 0)
"""For SO_LINGER: the close sends a reset."""

KERNEL_BYTES = 65_536
"""Buffers of a client that does not read: small, so that those of the balancer's side are soon full."""
MANY_BYTES = 50_000_000
"""More than a kernel may hold for one connection in both directions, and the gateways besides."""
GROWTH_BYTES = 60_000_000
"""What a few such clients and the allocator's waste may add to a balancer, far below what they send."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site"), balancer_options=["--stuck", str(STUCK_S)]) as site:
        site.start(SUBJECTS)
        yield site


def _descriptor(key: str, subject: str) -> dict[str, object]:
    return {"CstmId": TENANT, "Subject": subject, "DestinationPrefix": "0", "Amount": 1, "RequestId": key}


def _rpc(key: str, subject: str) -> bytes:
    params = json.dumps(_descriptor(key, subject)).encode()
    return b'{"jsonrpc":"2.0","id":1,"method":"Responder.DebitBalance","params":%b}\n' % params


def _http(key: str, subject: str) -> bytes:
    target = f"/debitbalance?cstmid={TENANT}&subj={subject}&dest=0&amount=1"
    return f"GET {target} HTTP/1.1\r\nHost: x\r\nIdempotency-Key: {key}\r\n\r\n".encode()


def _rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


class SteadyClient:
    """Debits one after the other until the block ends; any error fails the test."""

    def __init__(self, site: Site, ledger: Ledger, prefix: str) -> None:
        self._site = site
        self._ledger = ledger
        self._prefix = prefix
        self._stop = threading.Event()
        self.done = 0
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._work)

    def _work(self) -> None:
        try:
            with self._site.client() as client:
                for number in itertools.count():
                    if self._stop.is_set():
                        return
                    key = f"{self._prefix}/{number}"
                    self._ledger.intend(key, "s0", 1)
                    self._ledger.acknowledge(key, client.call("DebitBalance", _descriptor(key, "s0")))
                    self.done += 1
        except Exception as error:
            self.error = error

    def __enter__(self) -> SteadyClient:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        assert self.error is None, repr(self.error)


def _send_until_cut(address: Address, message: bytes) -> int:
    """Send without reading until the other side ends it; how many bytes it took."""
    with socket.socket() as sock:
        sock.settimeout(PATIENCE_S)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, KERNEL_BYTES)
        sock.connect(tuple(address))
        sent = 0
        with suppress(ConnectionError):
            while True:
                sent += sock.send(message)
        return sent


def _rpc_flood() -> bytes:
    """Calls that raters answer: the answers are what nobody reads."""
    descriptor = json.dumps({"CstmId": TENANT, "Subject": "s1", "DestinationPrefix": "0" * 40, "Amount": 1})
    message = '{"jsonrpc":"2.0","id":"%s","method":"Responder.GetMaxSessionTime","params":%s}\n'
    return (message % ("x" * 2000, descriptor)).encode() * 10


def _http_flood() -> bytes:
    """Bodies whose answers are larger than they are, pipelined."""
    body = b'{"id":1,"method":"x"}' * 100
    return b"POST /jsonrpc HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


@pytest.mark.parametrize(
    ("gateway", "flood", "says"),
    [
        ("jsonrpc", _rpc_flood, "does not read its answers, closing"),
        ("http", _http_flood, "does not read its responses, closing"),
    ],
)
def test_a_client_that_never_reads_is_let_go_and_nobody_else_notices(
    site: Site, gateway: str, flood: Callable[[], bytes], says: str
) -> None:
    [balancer] = site.balancers
    ledger = Ledger(TENANT, SUBJECTS)
    open_before, rss_before = _descriptors(balancer.pid), _rss_bytes(balancer.pid)
    address = getattr(balancer, gateway)
    with SteadyClient(site, ledger, gateway) as steady, ThreadPoolExecutor(4) as pool:
        floods = [pool.submit(_send_until_cut, address, flood()) for _ in range(4)]
        most = rss_before
        while not all(flood.done() for flood in floods):
            most = max(most, _rss_bytes(balancer.pid))
            done = steady.done
            wait_until(lambda done=done: steady.done > done or steady.error, "the steady client is served")  # type: ignore[misc]
        sent = [flood.result() for flood in floods]
        assert 0 < min(sent) <= max(sent) < MANY_BYTES, f"it was read without bound: {sent}"
    assert balancer.says(says)
    assert most - rss_before < GROWTH_BYTES
    wait_until(lambda: _descriptors(balancer.pid) <= open_before, "all descriptors are given back")


UNREAD_CLIENTS = {"jsonrpc": 24, "http": 80}
"""Over HTTP each leaves at least 64 KiB, over TCP 256 KiB, until it is not read any more: more than the bound
together, and none of them alone."""


@pytest.fixture(scope="module")
def bounded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Nobody is closed for being slow, and all of them have no more in flight than the balancer takes."""
    options = ["--stuck", "3600", "--max-unsent", "4", "--max-in-flight", "100"]
    with Site(tmp_path_factory.mktemp("bounded"), balancer_options=options) as site:
        site.start(SUBJECTS)
        yield site


def _large_pages() -> bytes:
    """The kernel takes some megabytes of answers for each client before any is left here."""
    return b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 10


class Unread:
    """A client that asks again and again, as long as that is taken from it, and never reads."""

    def __init__(self, address: Address, message: bytes) -> None:
        self.sock = socket.socket()
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            self.sock.setsockopt(socket.SOL_SOCKET, option, KERNEL_BYTES)
        self.sock.connect(tuple(address))
        self.sock.setblocking(False)
        self._message = self._rest = message

    def is_closed(self) -> bool:
        """After it has sent what is taken."""
        with suppress(BlockingIOError):
            try:
                self._rest = self._rest[self.sock.send(self._rest) :] or self._message
            except ConnectionError:
                return True
        return False


@pytest.mark.parametrize(("gateway", "flood"), [("jsonrpc", _rpc_flood), ("http", _large_pages)])
def test_of_clients_that_leave_too_much_together_some_are_closed_and_nobody_else_notices(
    bounded: Site, gateway: str, flood: Callable[[], bytes]
) -> None:
    [balancer] = bounded.balancers
    ledger, before = Ledger(TENANT, SUBJECTS), _descriptors(balancer.pid)
    clients = [Unread(getattr(balancer, gateway), flood()) for _ in range(UNREAD_CLIENTS[gateway])]
    try:
        with SteadyClient(bounded, ledger, f"bounded/{gateway}") as steady:
            wait_until(lambda: True in [client.is_closed() for client in clients], "some are closed")
            done = steady.done
            wait_until(lambda: steady.done > done or steady.error, "the steady client is served")
        assert balancer.says(f"gateway={gateway} unsent_bytes=")
        assert _descriptors(balancer.pid) > before, "no more are closed than have to be"
    finally:
        for client in clients:
            client.sock.close()
    wait_until(lambda: _descriptors(balancer.pid) <= before, "all descriptors are given back")


CLIENTS = 2400


def _come_and_go(site: Site, ledger: Ledger, number: int) -> None:
    """Connect, send one debit, and leave: after the answer, before it, or with a reset."""
    [balancer] = site.balancers
    key, subject = f"visit/{number}", f"s{number % len(SUBJECTS)}"
    over_http = number % 2 == 1
    ledger.intend(key, subject, 1)
    address = balancer.http if over_http else balancer.jsonrpc
    with socket.create_connection(tuple(address), timeout=PATIENCE_S) as sock:
        sock.sendall((_http if over_http else _rpc)(key, subject))
        if number % 6 < 2:
            text = sock.recv(65536).split(b"\r\n\r\n")[-1]
            answer = json.loads(text, parse_float=Decimal)
            ledger.acknowledge(key, answer if over_http else answer["result"])
        elif number % 6 < 4:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def test_thousands_of_clients_that_come_and_go_leave_nothing_behind_and_each_debit_once(
    tmp_path: Path,
) -> None:
    with Site(tmp_path / "site") as site:
        site.start(SUBJECTS)
        [balancer] = site.balancers
        ledger = Ledger(TENANT, SUBJECTS)
        with SteadyClient(site, ledger, "warm"), ThreadPoolExecutor(32) as pool:
            list(pool.map(lambda n: _come_and_go(site, ledger, -n), range(1, 200)))
        wait_until(lambda: site.balancers[0].says("joins"), "the raters are there")
        open_before, rss_before = _descriptors(balancer.pid), _rss_bytes(balancer.pid)
        with SteadyClient(site, ledger, "steady") as steady, ThreadPoolExecutor(32) as pool:
            list(pool.map(lambda n: _come_and_go(site, ledger, n), range(CLIENTS)))
            assert steady.done
        wait_until(lambda: _descriptors(balancer.pid) <= open_before, "all descriptors are given back")
        assert _rss_bytes(balancer.pid) - rss_before < GROWTH_BYTES
        with site.client() as client:  # what was not told is asked for, with the same keys
            for key in [key for key in ledger.intents if key not in ledger.told]:
                left = client.call("DebitBalance", _descriptor(key, ledger.intents[key].subject))
                ledger.acknowledge(key, left)
        assert site.store is not None
        with site.store.connect() as store:
            reckoning = ledger.reckon(store)
        assert reckoning.clean, str(reckoning)
        assert reckoning.acknowledged == len(ledger.intents) > CLIENTS
        assert reckoning.unresolved == 0
