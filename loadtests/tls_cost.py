"""What TLS costs the front: processor time of a balancer for each request, with it and without, in turns.

    python -m loadtests.tls_cost [--requests 20000] [--rounds 3]

A balancer with a rater that answers at once; JSON-RPC pipelined 64 deep on one connection, HTTP one request
after the other on one kept connection, and HTTP with a connection for each. Processor time, not elapsed time:
other work on the machine changes it little.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from common.client import JSONClient
from common.tls import ClientTls
from tests.certificates import HERE, Authority
from tests.integration.balancer_process import BalancerProcess

CALL = {"CstmId": "vdf", "Subject": "rif", "DestinationPrefix": "0257"}
TARGET = "/getcost?cstmid=vdf&subj=rif&dest=0257"
RATER = Path(__file__).resolve().parents[1] / "tests" / "integration" / "fake_rater.py"
HANDSHAKES = 20
"""One connection for so many requests of the others: a handshake takes about as long."""


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def jsonrpc(balancer: BalancerProcess, tls: ClientTls | None, requests: int) -> int:
    with JSONClient(("127.0.0.1", balancer.jsonrpc_port), tls=tls, timeout_s=60) as client:
        client.call_many([("GetCost", CALL)] * requests)
    return requests


def web(balancer: BalancerProcess, tls: ClientTls | None) -> http.client.HTTPConnection:
    port = balancer.http_port
    if tls is None:
        return http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    return http.client.HTTPSConnection("127.0.0.1", port, timeout=60, context=tls.context())


def http_kept(balancer: BalancerProcess, tls: ClientTls | None, requests: int) -> int:
    with contextlib.closing(web(balancer, tls)) as connection:
        for _ in range(requests // 4):
            connection.request("GET", TARGET)
            connection.getresponse().read()
    return requests // 4


def http_new(balancer: BalancerProcess, tls: ClientTls | None, requests: int) -> int:
    for _ in range(requests // HANDSHAKES):
        with contextlib.closing(web(balancer, tls)) as connection:
            connection.request("GET", TARGET)
            connection.getresponse().read()
    return requests // HANDSHAKES


WORKLOADS: dict[str, Callable[[BalancerProcess, ClientTls | None, int], int]] = {
    "JSON-RPC, 64 in flight": jsonrpc,
    "HTTP, one connection": http_kept,
    "HTTP, a connection each": http_new,
}


@contextlib.contextmanager
def front(*options: str) -> Iterator[BalancerProcess]:
    with BalancerProcess(*options) as balancer:
        rater = subprocess.Popen([sys.executable, str(RATER), str(balancer.router_port)])
        try:
            yield balancer
        finally:
            rater.kill()
            rater.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        authority = Authority(Path(folder))
        cert, key = authority.issue(*HERE)
        tls = authority.client("client.example")
        secured = ("--tls-cert", str(cert), "--tls-key", str(key), "--tls-client-ca", str(authority.ca))
        with front() as plain, front(*secured) as encrypted:
            print("| requests | plain, µs | TLS, µs | difference, µs |\n| --- | ---: | ---: | ---: |")
            for name, work in WORKLOADS.items():
                taken: dict[bool, list[float]] = {False: [], True: []}
                for balancer, how in ((plain, None), (encrypted, tls)):
                    work(balancer, how, given.requests // 4)  # everything is warm
                for _ in range(given.rounds):
                    for balancer, how in ((plain, None), (encrypted, tls)):
                        before = cpu_s(balancer.process.pid)
                        done = work(balancer, how, given.requests)
                        taken[how is not None].append((cpu_s(balancer.process.pid) - before) / done * 1e6)
                without, with_tls = (statistics.median(taken[which]) for which in (False, True))
                print(f"| {name} | {without:.1f} | {with_tls:.1f} | {with_tls - without:.1f} |", flush=True)


if __name__ == "__main__":
    main()
