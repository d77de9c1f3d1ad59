"""A cluster of single processes on loopback, each of which a test can kill, pause and start again.

`ratel up` would restart at once what a test has just killed; here nothing happens by itself. Every
part keeps its addresses from one life to the next, so that the others find it again. Raters can be
told to die or to stall at a chosen moment, see `faulty_rater`.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

from common.addresses import Address
from common.client import JSONClient
from common.storage.embedded_store import EmbeddedStore, Fsync, socket_path
from common.storage.store import StoreConnection

ROOT = Path(__file__).resolve().parents[2]
RATEL = [sys.executable, "-m", "common.cli"]
FAULTY_RATER = [sys.executable, "-m", "tests.faults.faulty_rater"]
PATIENCE_S = 60.0
"""For everything that should take moments: the machine may be busy with something else."""

RATES = """[{"CstmId": "shop", "Subject": "*any", "DestinationPrefix": "0", "ActivationPeriods":
[{"ActivationTime": "2012-01-01T00:00:00Z", "Intervals": [{"Price": 1, "BillingUnit": 60}]}]}]"""
TENANT = "shop"
JOURNAL_LINES = 10_000_000
"""More than any test makes: the reckoning needs all of them."""


def free_address() -> Address:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return Address("127.0.0.1", int(probe.getsockname()[1]))


def wait_until(condition: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> float:
    """Look again and again until it holds; how many seconds that took."""
    began_s = time.monotonic()
    while not condition():
        passed_s = time.monotonic() - began_s
        assert passed_s < patience_s, f"not within {patience_s:g} s: {what}"
        time.sleep(0.005)
    return time.monotonic() - began_s


class Node:
    """One part of the cluster: a command line that can have several lives."""

    def __init__(self, name: str, command: Sequence[str], log: Path, **environment: str) -> None:
        self.name = name
        self.log = log
        self.command = list(command)
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._paused = False

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} was never started"
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        assert not self.alive, f"{self.name} runs"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | self._environment,
                start_new_session=True,
            )

    def signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def pause(self) -> None:
        """SIGSTOP: as a machine that hangs."""
        self._paused = True
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._paused = False
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """kill -9, and its end."""
        self.signal(signal.SIGKILL)
        self.wait()

    def terminate(self) -> int:
        """SIGTERM; the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        assert self._process is not None
        return self._process.wait(PATIENCE_S)

    def says(self, text: str) -> bool:
        """Whether its output, of any life, holds this."""
        return self.log.exists() and text in self.log.read_text(errors="replace")


class Front(Node):
    """A process that clients ask."""

    def __init__(
        self,
        name: str,
        what: str,
        folder: Path,
        *options: str,
        address: Callable[[], Address] = free_address,
    ) -> None:
        self.jsonrpc, self.http = address(), address()
        words = [*RATEL, what, "--jsonrpc", str(self.jsonrpc), "--http", str(self.http), *options]
        super().__init__(name, words, folder / f"{name}.log")

    def readiness(self) -> int:
        """How many raters, of a gateway balancers, can be given work; 0 as well when it can't be asked."""
        connection = http.client.HTTPConnection(self.http.host, self.http.port, timeout=2)
        try:
            connection.request("GET", "/readyz")
            response = connection.getresponse()
            body = response.read()
            return int(json.loads(body)["raters"]) if response.status == http.client.OK else 0
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()


class Balancer(Front):
    def __init__(
        self, name: str, folder: Path, *options: str, address: Callable[[], Address] = free_address
    ) -> None:
        self.router = address()
        super().__init__(name, "balancer", folder, "--router", str(self.router), *options, address=address)


class Gateway(Front):
    """Asks the balancers at these router ports."""

    def __init__(
        self,
        name: str,
        folder: Path,
        routers: Sequence[Address],
        *options: str,
        address: Callable[[], Address] = free_address,
    ) -> None:
        words = [word for router in routers for word in ("--balancer", str(router))]
        super().__init__(name, "gateway", folder, *words, *options, address=address)


class Points:
    """The moments at which raters die or stall: a file each, which the first rater to pass it takes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def arm(self, point: str, action: str) -> None:
        """`action` is "kill" or "stop"; `point` one of `faulty_rater.POINTS`."""
        new = self.folder / f".{point}"
        new.write_text(action)
        new.replace(self.folder / point)

    def taken(self, point: str) -> list[int]:
        """Process ids of the raters that took it, in no order."""
        return [int(path.name.rpartition("-")[2]) for path in self.folder.glob(f"{point}.taken-*")]

    def forget(self, point: str) -> None:
        """Who took it before."""
        for path in self.folder.glob(f"{point}.taken-*"):
            path.unlink()

    def disarm(self) -> None:
        for path in self.folder.iterdir():
            path.unlink(missing_ok=True)


class StoreNode(Node):
    """The embedded store as a part of its own."""

    def __init__(self, folder: Path, fsync: Fsync, **environment: str) -> None:
        self._store = EmbeddedStore(folder / "data", appendfsync=fsync)
        super().__init__("store", self._store.command(), folder / "store.log", **environment)
        self.data_dir = self._store.data_dir
        self.url = f"embedded:{self.data_dir}"

    def socket(self) -> Path:
        """Where it listens, once it is ready."""
        path = socket_path(self.data_dir)
        assert path is not None
        return path

    def start(self) -> None:
        self.command = self._store.command()
        super().start()

    def wait_ready(self) -> float:
        return wait_until(self._store.is_ready, "the store answers")

    def connect(self, timeout_ms: int = 20_000) -> StoreConnection:
        return StoreConnection(self.url, timeout_ms=timeout_ms)


class Site:
    """One store, balancers and raters. A context manager; everything it started ends with it.

    `store_url` takes the place of the embedded store: a proxy's, or that of a group with replicas.
    """

    def __init__(
        self,
        folder: Path,
        *,
        raters: int = 2,
        balancers: int = 1,
        fsync: Fsync = "no",
        store_url: str | None = None,
        store_environment: Mapping[str, str] = MappingProxyType({}),
        balancer_options: Sequence[str] = (),
        rater_options: Sequence[str] = (),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.points = Points(folder / "points")
        self.store = StoreNode(folder, fsync, **store_environment) if store_url is None else None
        self.store_url = store_url or (self.store.url if self.store else "")
        self.balancers = [
            Balancer(f"balancer-{number}", folder, *balancer_options) for number in range(balancers)
        ]
        self.raters = [self.rater(f"rater-{number}", *rater_options) for number in range(raters)]

    def rater(
        self,
        name: str,
        *options: str,
        routers: Sequence[Address] = (),
        store_url: str = "",
        **environment: str,
    ) -> Node:
        """A rater that joins every balancer; not started."""
        words = [*FAULTY_RATER, "--store", store_url or self.store_url, "--name", name]
        words += ["--journal-lines", str(JOURNAL_LINES), *options]
        for router in routers or [balancer.router for balancer in self.balancers]:
            words += ["--balancer", str(router)]
        log = self.folder / f"{name}.log"
        return Node(name, words, log, RATEL_TEST_POINTS=str(self.points.folder), **environment)

    @property
    def nodes(self) -> list[Node]:
        return [*([self.store] if self.store else []), *self.balancers, *self.raters]

    def start(self, accounts: dict[str, int]) -> None:
        """Start everything, with these subjects' accounts (credit in cents), and wait until it is ready."""
        if self.store:
            self.store.start()
            self.store.wait_ready()
        self.load(accounts)
        for node in (*self.balancers, *self.raters):
            node.start()
        self.wait_ready()

    def load(self, accounts: dict[str, int]) -> None:
        budgets = ", ".join(f'{{"Id": "{name}", "Credit": {cents}}}' for name, cents in accounts.items())
        files = {"activation_periods.json": RATES, "user_budgets.json": f"[{budgets}]"}
        for name, text in files.items():
            (self.folder / name).write_text(text)
        paths = [str(self.folder / name) for name in files]
        self.run("load", "--store", self.store_url, "--tenant", TENANT, "--wait", "0", *paths)

    def run(self, *args: str) -> str:
        """A `ratel` command to its end; what it printed."""
        done = subprocess.run([*RATEL, *args], capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def wait_ready(self, raters: int | None = None) -> float:
        """Until every running balancer has that many raters to give work to; the seconds it took."""
        expected = len(self.raters) if raters is None else raters

        def ready() -> bool:
            running = sum(rater.alive for rater in self.raters)
            assert running >= expected, f"{running} raters run, {expected} should be ready"
            return all(balancer.readiness() >= expected for balancer in self.balancers if balancer.alive)

        return wait_until(ready, f"{expected} raters ready")

    def wait_for_loss(self, raters: int) -> float:
        """Until no running balancer has more than that many raters; the seconds it took."""
        return wait_until(
            lambda: all(b.readiness() <= raters for b in self.balancers if b.alive),
            f"{raters} raters left",
        )

    def strike(self, point: str, action: str) -> Node:
        """Have the next rater that passes this point die or stall there; the one that did. See `Points`."""
        self.points.forget(point)
        self.points.arm(point, action)
        wait_until(lambda: self.points.taken(point), f"a rater passes {point}")
        [pid] = self.points.taken(point)
        struck = next(rater for rater in self.raters if rater.pid == pid)
        if action == "kill":
            struck.wait()
        else:
            stat = Path(f"/proc/{pid}/stat")
            wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", f"{struck.name} stands")
        return struck

    def client(self, balancer: int = 0, **options: Any) -> JSONClient:
        return JSONClient(self.balancers[balancer].jsonrpc, **options)

    def close(self) -> None:
        self.points.disarm()
        for node in reversed(self.nodes):
            if node.alive:
                node.signal(signal.SIGKILL)
                node.wait()

    def __enter__(self) -> Site:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if error is not None:
            for node in self.nodes:
                print(f"--- {node.name}\n{_tail(node.log)}")


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""
