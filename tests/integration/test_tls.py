"""TLS on both gateways: who is let in, who is told what, renewed certificates, bounds, and the end."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from balancer import tls_entrance
from balancer.tls_entrance import JSONRPC, Certificates, TlsEntrance, unsent_bytes
from common.client import JSONClient
from common.errors import ConnectionLost
from common.tls import ClientTls, ServerTls, TlsError
from tests.certificates import HERE, Authority, replace, with_passphrase
from tests.integration.balancer_process import COMMAND, PATIENCE_S, BalancerProcess, message
from tests.integration.fake_rater import FakeRater, answer_one, echo, hold

CALL = {"CstmId": "vdf", "Subject": "rif", "DestinationPrefix": "0257"}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Whom nobody trusts."""
    return Authority(tmp_path_factory.mktemp("other"), "stranger")


def options(pair: tuple[Path, Path], *more: str) -> tuple[str, ...]:
    return ("--tls-cert", str(pair[0]), "--tls-key", str(pair[1]), *more)


@pytest.fixture(scope="module")
def balancer(authority: Authority) -> Iterator[BalancerProcess]:
    """With a rater that answers all with 1."""
    with (
        BalancerProcess(*options(authority.issue(*HERE))) as process,
        FakeRater(process.router_port, answer_one) as rater,
    ):
        rater.wait_for(lambda rater: rater.joined)
        yield process


@pytest.fixture(scope="module")
def closed(authority: Authority) -> Iterator[BalancerProcess]:
    """The same, and clients need certificates."""
    more = ("--tls-client-ca", str(authority.ca))
    with (
        BalancerProcess(*options(authority.issue(*HERE), *more)) as process,
        FakeRater(process.router_port, answer_one) as rater,
    ):
        rater.wait_for(lambda rater: rater.joined)
        yield process


def client(balancer: BalancerProcess, tls: ClientTls | None, **settings: Any) -> JSONClient:
    return JSONClient(("127.0.0.1", balancer.jsonrpc_port), tls=tls, **settings)


def web(balancer: BalancerProcess, tls: ClientTls) -> http.client.HTTPSConnection:
    return http.client.HTTPSConnection(
        "127.0.0.1", balancer.http_port, timeout=PATIENCE_S, context=tls.context()
    )


def get(connection: http.client.HTTPSConnection, path: str = "/getcost?cstmid=vdf&subj=rif&dest=0257") -> Any:
    connection.request("GET", path)
    response = connection.getresponse()
    return response.status, response.read()


# --- who is let in --------------------------------------------------------------------------------


def test_both_gateways_speak_tls_and_alpn(balancer: BalancerProcess, authority: Authority) -> None:
    tls = authority.client()
    with client(balancer, tls) as rpc:
        assert rpc.call_many([("GetCost", CALL)] * 500) == [1] * 500
    with contextlib.closing(web(balancer, tls)) as connection:
        assert get(connection) == (200, b"1")
        assert get(connection, "/healthz")[0] == 200
    context = tls.context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    for port, chosen in ((balancer.http_port, "http/1.1"), (balancer.jsonrpc_port, None)):
        with (
            socket.create_connection(("127.0.0.1", port), PATIENCE_S) as sock,
            context.wrap_socket(sock, server_hostname="127.0.0.1") as wrapped,
        ):
            assert (wrapped.selected_alpn_protocol(), wrapped.version()) == (chosen, "TLSv1.3")


def test_the_command_speaks_tls_by_options_and_by_the_environment(
    closed: BalancerProcess, authority: Authority
) -> None:
    words = [sys.executable, "-m", "common.cli", "call", "DebitSMS", "cstmid=vdf", "subj=rif", "amount=1"]
    address = ["--address", f"127.0.0.1:{closed.jsonrpc_port}"]
    cert, key = map(str, authority.issue("operator.example"))
    environment = {"RATEL_CLIENT_TLS_CERT": cert, "RATEL_CLIENT_TLS_KEY": key, "PATH": "/usr/bin"}

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*words, *address, *more],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    done = run("--tls-ca", str(authority.ca))
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    done = run("--tls-ca", str(authority.ca), "--tls-server-name", "rating.example")
    assert done.returncode == 3
    assert "TLS: the certificate is refused: Hostname mismatch" in done.stderr
    done = run("--tls-ca", "/nowhere")
    assert done.returncode == 2
    assert "the CA /nowhere: No such file or directory" in done.stderr
    del environment["RATEL_CLIENT_TLS_KEY"]
    done = run("--tls-ca", str(authority.ca))
    assert done.returncode == 2
    assert "the client's certificate and the client's key go together" in " ".join(done.stderr.split())


def test_old_versions_are_refused(balancer: BalancerProcess, authority: Authority) -> None:
    context = authority.client().context()
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection(("127.0.0.1", balancer.http_port)) as sock,
        context.wrap_socket(sock, server_hostname="127.0.0.1") as wrapped,
    ):
        assert wrapped.version() == "TLSv1.2"
    with pytest.warns(DeprecationWarning, match="TLSv1 is deprecated"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with (
        contextlib.closing(socket.create_connection(("127.0.0.1", balancer.http_port))) as sock,
        pytest.raises(ssl.SSLError, match=r"PROTOCOL_VERSION|protocol version"),
    ):
        context.wrap_socket(sock, server_hostname="127.0.0.1")
    balancer.wait_for_line("port=http peer=127.0.0.1")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("ca", "the certificate is refused: unable to get local issuer certificate"),
        ("host", "the certificate is refused: Hostname mismatch"),
        ("expired", "the certificate is refused: certificate has expired"),
    ],
)
def test_a_server_that_is_not_the_right_one_gets_nothing(
    authority: Authority, stranger: Authority, wrong: str, says: str
) -> None:
    pair = authority.expired(*HERE) if wrong == "expired" else authority.issue(*HERE)
    tls = {"ca": stranger.client(), "host": authority.client(server_name="x.example")}.get(
        wrong, authority.client()
    )
    with (
        BalancerProcess(*options(pair)) as balancer,
        FakeRater(balancer.router_port) as rater,
        client(balancer, tls, connect_timeout_s=1.0) as rpc,
    ):
        with pytest.raises(ConnectionLost, match=says):
            rpc.call("DebitSMS", CALL)
        assert rater.received == []
        balancer.wait_for_line("TLS failed: ")


@pytest.mark.parametrize(
    ("who", "says"),
    [
        ("none", "TLS: a client certificate is required"),
        ("stranger", "TLS: our certificate's CA is not known there"),
        ("expired", "TLS: our certificate has expired"),
    ],
)
def test_a_client_without_the_right_certificate_is_told_so_and_gets_nothing(
    closed: BalancerProcess, authority: Authority, stranger: Authority, who: str, says: str
) -> None:
    tls = {
        "none": authority.client(),
        "stranger": ClientTls(authority.ca, *stranger.issue("evil.example")),
        "expired": ClientTls(authority.ca, *authority.expired("late.example")),
    }[who]
    with client(closed, tls, connect_timeout_s=1.0) as rpc, pytest.raises(ConnectionLost, match=says):
        rpc.call("DebitSMS", CALL)
    with pytest.raises(OSError), contextlib.closing(web(closed, tls)) as connection:  # noqa: PT011
        get(connection)
    with client(closed, authority.client("friend.example")) as rpc:
        assert rpc.call("DebitSMS", CALL) == 1
    with contextlib.closing(web(closed, authority.client("friend.example"))) as connection:
        assert get(connection) == (200, b"1")


def test_an_optional_certificate_may_be_missing_but_not_wrong(
    authority: Authority, stranger: Authority
) -> None:
    more = ("--tls-client-ca", str(authority.ca), "--tls-client-cert", "optional")
    with (
        BalancerProcess(*options(authority.issue(*HERE), *more)) as balancer,
        FakeRater(balancer.router_port),
    ):
        assert "tls=client-cert-optional" in balancer.lines[0]
        for tls in (authority.client(), authority.client("friend.example")):
            with client(balancer, tls) as rpc:
                assert rpc.call("GetCost", CALL) == 1
        evil = ClientTls(authority.ca, *stranger.issue("evil.example"))
        with client(balancer, evil, connect_timeout_s=1.0) as rpc, pytest.raises(ConnectionLost, match="CA"):
            rpc.call("GetCost", CALL)


# --- who speaks something else --------------------------------------------------------------------


def test_plain_text_on_a_tls_port_is_named_in_the_answer_and_in_the_log(authority: Authority) -> None:
    with BalancerProcess(*options(authority.issue(*HERE))) as balancer:
        with client(balancer, None) as rpc, pytest.raises(ConnectionLost, match="this port speaks TLS"):
            rpc.call("GetCost", CALL)
        balancer.wait_for_line("port=jsonrpc peer=127.0.0.1")
        reply = balancer.get("/healthz")
        assert (reply.status, reply.body["error"]["message"]) == (400, "this port speaks TLS")
        balancer.wait_for_line("TLS failed: plain HTTP where TLS is spoken")


def test_tls_on_a_plain_port_is_named_in_the_log(authority: Authority) -> None:
    tls = authority.client()
    with BalancerProcess() as balancer:
        with (
            client(balancer, tls, connect_timeout_s=1.0) as rpc,
            pytest.raises(ConnectionLost, match="TLS: the other side does not speak TLS"),
        ):
            rpc.call("GetCost", CALL)
        balancer.wait_for_line("port=jsonrpc peer=127.0.0.1")
        with pytest.raises(ssl.SSLError), contextlib.closing(web(balancer, tls)) as connection:
            get(connection)
        balancer.wait_for_line("speaks TLS, but this port does not (--tls-cert)")


# --- the start ------------------------------------------------------------------------------------


def _start(*more: str) -> subprocess.CompletedProcess[str]:
    ports = [f"--{name}=127.0.0.1:0" for name in ("jsonrpc", "http", "router")]
    return subprocess.run(
        [*COMMAND, *ports, *more], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


def test_files_that_can_t_be_used_stop_the_start_with_one_line(authority: Authority, tmp_path: Path) -> None:
    cert, key = authority.issue(*HERE)
    _, other = authority.issue(*HERE)
    empty, locked = tmp_path / "empty", tmp_path / "locked"
    empty.write_bytes(b"")
    locked.write_bytes(with_passphrase(key))
    cases = [
        ((cert, other), None, f"--tls-key {other}: is not the key of the certificate in {cert}"),
        ((tmp_path / "no", key), None, f"--tls-cert {tmp_path}/no: No such file or directory"),
        ((cert, tmp_path), None, f"--tls-key {tmp_path}: Is a directory"),
        ((empty, key), None, f"--tls-cert {empty}: holds no certificate in PEM form"),
        ((cert, cert), None, f"--tls-key {cert}: holds no private key in PEM form"),
        ((cert, key), key, f"--tls-client-ca {key}: holds no certificate in PEM form"),
        ((cert, locked), None, f"--tls-key {locked}: has a passphrase; a key without one is needed"),
    ]
    for pair, client_ca, says in cases:
        with pytest.raises(TlsError) as caught:
            Certificates(ServerTls(*pair, client_ca))
        assert str(caught.value) == says
    pair, _, says = cases[0]
    done = _start(*options(pair))
    assert (done.returncode, done.stderr) == (1, f"ratel balancer: {says}\n")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("--tls-cert", "x"), "--tls-cert needs --tls-key"),
        (("--tls-key", "x"), "--tls-key needs --tls-cert"),
        (("--tls-client-ca", "x"), "--tls-client-ca needs --tls-cert"),
    ],
)
def test_options_that_do_not_go_alone_are_an_error_of_usage(given: tuple[str, ...], says: str) -> None:
    done = _start(*given)
    assert done.returncode == 2
    assert says in done.stderr


# --- renewal --------------------------------------------------------------------------------------


class Caller:
    """Calls over one gateway again and again, each fifth time on a new connection. No failure is allowed."""

    def __init__(self, balancer: BalancerProcess, tls: ClientTls, over_http: bool) -> None:
        self.done = 0
        self.error: BaseException | None = None
        self._stop = False
        self._changed = threading.Condition()
        self._balancer, self._tls, self._over_http = balancer, tls, over_http
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stop:
                self._five_calls()
                with self._changed:
                    self.done += 5
                    self._changed.notify_all()
        except BaseException as error:
            with self._changed:
                self.error = error
                self._changed.notify_all()

    def _five_calls(self) -> None:
        if not self._over_http:
            with client(self._balancer, self._tls) as rpc:
                assert [rpc.call("DebitSMS", CALL) for _ in range(5)] == [1] * 5
            return
        with contextlib.closing(web(self._balancer, self._tls)) as connection:
            assert [get(connection) for _ in range(5)] == [(200, b"1")] * 5

    def wait_for(self, more: int) -> None:
        with self._changed:
            wanted = self.done + more
            assert self._changed.wait_for(lambda: self.error or self.done >= wanted, PATIENCE_S)
        assert self.error is None

    def stop(self) -> None:
        self._stop = True
        self._thread.join(PATIENCE_S)
        assert self.error is None


def serial_at(port: int, tls: ClientTls) -> Any:
    with (
        socket.create_connection(("127.0.0.1", port), PATIENCE_S) as sock,
        tls.context().wrap_socket(sock, server_hostname="127.0.0.1") as wrapped,
    ):
        found = wrapped.getpeercert()
        assert found
        return found["serialNumber"]


def test_renewed_certificates_are_taken_under_load_and_no_request_fails(tmp_path: Path) -> None:
    authority, later = Authority(tmp_path), Authority(tmp_path, "later")
    pair = authority.issue(*HERE)
    roots = tmp_path / "roots.pem"
    replace(roots, authority.ca.read_bytes())
    good = pair[0].read_bytes()
    tls = ClientTls(authority.ca, *authority.issue("friend.example"))
    with (
        BalancerProcess(*options(pair, "--tls-client-ca", str(roots))) as balancer,
        FakeRater(balancer.router_port, answer_one) as rater,
    ):
        rater.wait_for(lambda rater: rater.joined)
        ports = (balancer.jsonrpc_port, balancer.http_port)
        first = [serial_at(port, tls) for port in ports]
        callers = [Caller(balancer, tls, over_http) for over_http in (False, True)]
        with client(balancer, tls) as old:
            assert old.call("GetCost", CALL) == 1
            # Half of a renewal: the certificate of another key. The pair before it stays.
            other, _ = authority.issue(*HERE)
            replace(pair[0], other.read_bytes())
            balancer.wait_for_line("certificate not taken, the one before stays: --tls-key")
            assert [serial_at(port, tls) for port in ports] == first
            replace(pair[0], good[: len(good) // 2])
            for caller in callers:
                caller.wait_for(20)
            # Then all of it, and another authority for the clients beside the one before.
            replace(roots, authority.ca.read_bytes() + later.ca.read_bytes())
            authority.issue(*HERE, to=pair)
            balancer.wait_for_line("certificate taken for new connections")
            assert set(first).isdisjoint(serial_at(port, tls) for port in ports)
            for caller in callers:
                caller.wait_for(20)
            newcomer = ClientTls(authority.ca, *later.issue("new.example"))
            with client(balancer, newcomer) as rpc:
                assert rpc.call("GetCost", CALL) == 1
            assert old.call("GetCost", CALL) == 1
        for caller in callers:
            caller.stop()


def test_a_client_takes_its_own_renewed_certificate_when_it_reconnects(
    authority: Authority, stranger: Authority
) -> None:
    mine = stranger.issue("friend.example")
    tls = ClientTls(authority.ca, *mine)
    more = ("--tls-client-ca", str(authority.ca))
    server = options(authority.issue(*HERE), *more)
    with client_of_two_lives(server, tls) as (rpc, again):
        authority.issue("friend.example", to=mine)
        assert rpc.call("DebitSMS", CALL) == 1
        again()
        assert rpc.call("DebitSMS", CALL) == 1


@contextlib.contextmanager
def client_of_two_lives(server: tuple[str, ...], tls: ClientTls) -> Iterator[tuple[JSONClient, Any]]:
    """A client, and what has its balancer die and another one start on its port."""
    with contextlib.ExitStack() as lives:
        balancer = lives.enter_context(BalancerProcess(*server))
        lives.enter_context(FakeRater(balancer.router_port))
        rpc = lives.enter_context(client(balancer, tls))

        def again() -> None:
            balancer.process.kill()
            balancer.process.wait(PATIENCE_S)
            second = BalancerProcess(*server, "--jsonrpc", f"127.0.0.1:{balancer.jsonrpc_port}")
            lives.enter_context(second)
            lives.enter_context(FakeRater(second.router_port))

        yield rpc, again


# --- bounds, and the end --------------------------------------------------------------------------


def test_sigterm_drains_tls_connections(authority: Authority) -> None:
    tls = authority.client()
    with (
        BalancerProcess(*options(authority.issue(*HERE))) as balancer,
        FakeRater(balancer.router_port, hold) as rater,
        client(balancer, tls) as rpc,
        contextlib.closing(web(balancer, tls)) as connection,
        contextlib.closing(web(balancer, tls)) as idle,
        socket.create_connection(("127.0.0.1", balancer.http_port)) as silent,
    ):
        rater.wait_for(lambda rater: rater.joined)
        assert get(idle, "/healthz")[0] == 200
        pending = [rpc.submit("DebitSMS", CALL) for _ in range(50)]
        connection.request("GET", "/getcost?cstmid=vdf&subj=rif&dest=0257")
        rater.wait_for_items(51)
        balancer.process.send_signal(signal.SIGTERM)
        balancer.wait_for_line("draining unanswered=51")
        rater.release()
        assert [one.result() for one in pending] == [1] * 50
        response = connection.getresponse()
        assert (response.status, response.read()) == (200, b"1")
        assert silent.recv(1) == b"", "it has not even shaken hands"
        assert balancer.process.wait(PATIENCE_S) == 0
        assert idle.sock.recv(1) == b""


def test_a_client_that_ends_gets_no_answers_any_more_and_nothing_is_complained_of(
    authority: Authority,
) -> None:
    with (
        BalancerProcess(*options(authority.issue(*HERE))) as balancer,
        FakeRater(balancer.router_port, hold) as rater,
    ):
        rater.wait_for(lambda rater: rater.joined)
        for port, text in (
            (balancer.jsonrpc_port, message(1)),
            (balancer.http_port, b"GET /getcost?cstmid=v&subj=s&dest=0 HTTP/1.1\r\nHost: x\r\n\r\n"),
        ):
            sock = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
            with authority.client().context().wrap_socket(sock, server_hostname="127.0.0.1") as wrapped:
                wrapped.sendall(text)
                rater.wait_for_items(1)
                with contextlib.closing(wrapped.unwrap()) as bare:
                    assert bare.recv(1) == b""
            rater.received.clear()
        rater.release()
        balancer.process.terminate()
        assert balancer.process.wait(PATIENCE_S) == 0
        assert not [line for line in balancer.lines if "level=warning" in line or "eof" in line.lower()]


@pytest.mark.parametrize("gateway", ["jsonrpc", "http"])
def test_a_client_that_never_reads_is_let_go_and_costs_bounded_memory(
    authority: Authority, gateway: str
) -> None:
    with (
        BalancerProcess(*options(authority.issue(*HERE)), "--stuck", "1") as balancer,
        FakeRater(balancer.router_port, echo) as rater,
    ):
        rater.wait_for(lambda rater: rater.joined)
        port = balancer.jsonrpc_port if gateway == "jsonrpc" else balancer.http_port
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        sock.settimeout(PATIENCE_S)
        sock.connect(("127.0.0.1", port))
        subject = "s" * 1_000
        if gateway == "jsonrpc":
            request = message(1, Subject=subject) * 20
        else:
            target = f"/getcost?cstmid=vdf&subj={subject}&dest=0257"
            request = f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode() * 20
        before = _rss_bytes(balancer.process.pid)
        with authority.client().context().wrap_socket(sock, server_hostname="127.0.0.1") as wrapped:
            sent = 0
            with pytest.raises(OSError):  # noqa: PT012, PT011
                while sent < 200_000_000:
                    wrapped.sendall(request)
                    sent += len(request)
        assert sent < 50_000_000, "it was read on and on"
        balancer.wait_for_line("does not read its")
        assert _rss_bytes(balancer.process.pid) - before < 40_000_000
        with client(balancer, authority.client()) as rpc:
            assert rpc.call("GetCost", CALL)["Subject"] == "rif"


def _rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


class Greeter(asyncio.Protocol):
    """Of a gateway: says what it was told."""

    def __init__(self, seen: list[Any]) -> None:
        self._seen = seen

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._seen.append("made")

    def data_received(self, data: bytes) -> None:
        self._seen.append(data)
        self._transport.write(data)


async def _entrance(authority: Authority, seen: list[Any]) -> tuple[TlsEntrance, asyncio.Server, int]:
    certificates = Certificates(ServerTls(*authority.issue(*HERE)))
    entrance = TlsEntrance(certificates, JSONRPC, "jsonrpc", lambda: Greeter(seen), lambda: b"TLS")
    server = await asyncio.get_running_loop().create_server(entrance, "127.0.0.1", 0)
    return entrance, server, server.sockets[0].getsockname()[1]


def test_silent_peers_are_cut_at_the_deadline_and_hold_no_place(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tls_entrance, "HANDSHAKE_S", 0.5)
    monkeypatch.setattr(tls_entrance, "MAX_HANDSHAKES", 3)
    seen: list[Any] = []

    async def run() -> None:
        entrance, server, port = await _entrance(authority, seen)
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        silent[0][1].write(tls_entrance.__doc__[:1].encode())  # type: ignore[index]
        while len(entrance._arriving) < 3:
            await asyncio.sleep(0.01)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b"", "a fourth one finds no place"
        writer.close()
        for reader, writer in silent:
            with contextlib.suppress(ConnectionResetError):
                await reader.read()
            writer.close()
        while entrance._arriving:
            await asyncio.sleep(0.01)
        assert seen == []
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=authority.client().context(), server_hostname="127.0.0.1"
        )
        writer.write(b"hello")
        assert await reader.read(5) == b"hello"
        writer.close()
        server.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
    assert seen == ["made", b"hello"]
    assert "handshakes limit=3" in caplog.text


def test_what_waits_encrypted_counts_as_unsent(authority: Authority) -> None:
    """The bound of `balancer.unsent` holds over TLS, too: the transport that gateways have does not count
    what it has given to the one below, all of a large answer."""
    made: list[Any] = []
    size = 20_000_000

    class Teller(Greeter):
        def data_received(self, data: bytes) -> None:
            self._transport.write(bytes(size))
            made.append(self._transport)

    def talk(port: int, read: threading.Event) -> None:
        with (
            socket.create_connection(("127.0.0.1", port), PATIENCE_S) as sock,
            authority.client().context().wrap_socket(sock, server_hostname="127.0.0.1") as tls,
        ):
            tls.sendall(b"?")
            read.wait(PATIENCE_S)
            left = size
            while left:
                left -= len(tls.recv(65536))

    async def run() -> tuple[int, int]:
        certificates, read = Certificates(ServerTls(*authority.issue(*HERE))), threading.Event()
        entrance = TlsEntrance(certificates, JSONRPC, "jsonrpc", lambda: Teller([]), lambda: b"TLS")
        server = await asyncio.get_running_loop().create_server(entrance, "127.0.0.1", 0)
        talking = asyncio.ensure_future(asyncio.to_thread(talk, server.sockets[0].getsockname()[1], read))
        while not made:
            await asyncio.sleep(0.01)
        waiting = unsent_bytes(made[0])
        read.set()
        await talking
        server.close()
        return waiting, unsent_bytes(made[0])

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        waited, wait = runner.run(run())
    assert waited > size / 2, "the kernel has taken no more than some megabytes"
    assert wait == 0


def test_what_comes_with_the_end_of_the_handshake_is_not_lost(authority: Authority) -> None:
    """A client may send its handshake's last message and megabytes of requests at once."""
    seen: list[Any] = []
    size = 3_000_000

    def talk(port: int) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = authority.client().context().wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
        with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as sock:
            while True:
                with contextlib.suppress(ssl.SSLWantReadError):
                    tls.do_handshake()
                    break
                sock.sendall(outgoing.read())
                incoming.write(sock.recv(65536))
            assert tls.write(b"x" * 16_000) == 16_000
            for _ in range(size // 16_000 - 1):
                tls.write(b"x" * 16_000)
            threading.Thread(target=sock.sendall, args=(outgoing.read(),), daemon=True).start()
            back = 0
            while back < size // 16_000 * 16_000:
                incoming.write(sock.recv(262_144))
                with contextlib.suppress(ssl.SSLWantReadError):
                    while True:
                        back += len(tls.read(262_144))

    async def run() -> None:
        _, server, port = await _entrance(authority, seen)
        await asyncio.to_thread(talk, port)
        server.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
    assert seen[0] == "made"
    assert sum(map(len, seen[1:])) == size // 16_000 * 16_000
