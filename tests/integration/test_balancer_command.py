"""`ratel balancer` as a process: its start, its settings, its end."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess

import pytest

from common.process.listen_fds import environment_of
from tests.integration.balancer_process import COMMAND, PATIENCE_S, BalancerProcess, message
from tests.integration.fake_rater import FakeRater, answer_one, hold


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_balancer_ends_with_code_0(number: signal.Signals) -> None:
    with BalancerProcess() as balancer:
        balancer.process.send_signal(number)
        assert balancer.process.wait(PATIENCE_S) == 0


def test_sigterm_answers_what_is_in_flight_refuses_what_is_new_and_ends_with_code_0() -> None:
    with BalancerProcess("--deadline", "60000") as balancer, FakeRater(balancer.router_port, hold) as rater:
        rater.wait_for(lambda rater: rater.joined)
        web = http.client.HTTPConnection("127.0.0.1", balancer.http_port, timeout=PATIENCE_S)
        web.request("GET", "/getcost?cstmid=vdf&subj=rif&dest=0257")
        with balancer.connect() as connection, balancer.connect() as idle:
            connection.send(message(number) for number in range(50))
            rater.wait_for_items(51)
            balancer.process.terminate()
            balancer.wait_for_line("draining unanswered=51")
            rater.respond = answer_one  # what it holds, it goes on holding
            late = connection.call(99)
            while late["error"] is None:  # what comes in the first moment is still taken
                late = connection.call(99)
            assert "shutting_down" in late["error"]
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", balancer.jsonrpc_port), timeout=PATIENCE_S)
            rater.release()
            answered = [reply for reply in connection.rest() if reply["error"] is None]
            assert {reply["id"] for reply in answered} >= set(range(50))
            assert idle.rest() == []
        response = web.getresponse()
        assert (response.status, response.read()) == (200, b"1")
        assert balancer.process.wait(PATIENCE_S) == 0


def test_sigterm_ends_idle_http_connections_and_finishes_a_request_that_has_begun() -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    with BalancerProcess() as balancer:
        address = ("127.0.0.1", balancer.http_port)
        with (
            socket.create_connection(address, timeout=PATIENCE_S) as idle,
            socket.create_connection(address, timeout=PATIENCE_S) as unused,
            socket.create_connection(address, timeout=PATIENCE_S) as begun,
        ):
            idle.sendall(request)
            assert b"connection: close" not in idle.recv(65536)
            begun.sendall(request[:10])
            balancer.get("/healthz")  # by now all of it is there
            balancer.process.terminate()
            assert idle.recv(65536) == b""
            assert unused.recv(65536) == b""
            begun.sendall(request[10:])
            text = b""
            while part := begun.recv(65536):
                text += part
            assert text.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"\r\nconnection: close\r\n" in text
        assert balancer.process.wait(PATIENCE_S) == 0


def test_sigterm_waits_for_nobody_beyond_the_deadline() -> None:
    with BalancerProcess("--deadline", "500") as balancer, balancer.connect() as connection:
        connection.send([message(1)])
        with FakeRater(balancer.router_port, hold) as rater:
            rater.wait_for_items(1)
            balancer.process.terminate()
            assert [reply["error"][:17] for reply in connection.rest()] == ["deadline_exceeded"]
            assert balancer.process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("option", ["jsonrpc", "http", "router"])
def test_a_port_in_use_is_one_clear_line_and_code_1(option: str) -> None:
    options = {"jsonrpc": "127.0.0.1:0", "http": "127.0.0.1:0", "router": "127.0.0.1:0"}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        options[option] = f"127.0.0.1:{taken.getsockname()[1]}"
        done = subprocess.run(
            [*COMMAND, *(f"--{name}={value}" for name, value in options.items())],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"ratel balancer: can't listen on {options[option]} (--{option}): Address already in use"
    ]


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("2001", "expected HOST:PORT such as 127.0.0.1:2001, not '2001'"),
        (":2001", "expected a host"),
        ("::1:2001", "in brackets"),
        ("localhost:port", "expected a port from 0 to 65535, not 'port'"),
        ("localhost:65536", "expected a port"),
        ("localhost:-1", "expected a port"),
    ],
)
def test_a_bad_address_is_a_clear_error_of_usage(address: str, says: str) -> None:
    done = subprocess.run(
        [*COMMAND, "--jsonrpc", address], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 2
    assert "--jsonrpc" in done.stderr
    assert says in " ".join(done.stderr.split())


@pytest.mark.parametrize("door", ["jsonrpc", "http", "router"])
def test_a_socket_that_was_handed_over_is_no_way_around_the_keys(door: str) -> None:
    """systemd listens where its unit says, whatever --jsonrpc, --http and --router say."""
    with socket.create_server(("0.0.0.0", 0)) as listener:
        ran = subprocess.run(
            [*COMMAND, "--jsonrpc=127.0.0.1:0", "--http=127.0.0.1:0", "--router=127.0.0.1:0"],
            pass_fds=[listener.fileno()],
            env=os.environ | environment_of({door: listener}),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        port = listener.getsockname()[1]
    assert ran.returncode == 1
    assert re.fullmatch(rf"ratel balancer: won't listen on 0\.0\.0\.0:{port} \(--{door}\): .*\n", ran.stderr)


def test_the_log_says_where_a_socket_listens_that_was_handed_over() -> None:
    with socket.create_server(("127.0.0.2", 0)) as listener:
        doors = {"http": listener}
        options = {"pass_fds": [listener.fileno()]}
        with BalancerProcess(popen=options, **environment_of(doors)) as balancer:
            assert f"http=127.0.0.2:{listener.getsockname()[1]} " in balancer.wait_for_line("listening")


def test_settings_come_from_the_environment_too() -> None:
    with BalancerProcess(RATEL_DEADLINE="200") as balancer, balancer.connect() as connection:
        assert "after 200 ms" in connection.call()["error"]


def test_ipv6_addresses_work_for_every_listener() -> None:
    if not _has_ipv6():
        pytest.skip("this host has no IPv6 loopback")
    with BalancerProcess("--jsonrpc=[::1]:0", "--http=[::1]:0", "--router=[::1]:0") as balancer:
        assert "jsonrpc=[::1]:" in balancer.wait_for_line("listening")
        with socket.create_connection(("::1", balancer.jsonrpc_port), timeout=PATIENCE_S) as sock:
            sock.sendall(b"nonsense\n")
            assert b"parse_error" in sock.recv(4096)
        web = http.client.HTTPConnection("::1", balancer.http_port, timeout=PATIENCE_S)
        web.request("GET", "/healthz")
        assert json.loads(web.getresponse().read()) == {"status": "up"}
        web.close()


def _has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False
