"""Clients of every kind that ask without a pause while the cluster is replaced under them, and what they saw.

Every debit has a key of its own. A client that is *cut* (its connection ends before the answer) or told that
the server shuts down does what the documentation says: it repeats the request with the same key. The library
clients do so by themselves. Any other error is a failure.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path
from typing import Any

from common.addresses import Address
from common.client import JSONClient
from common.zmq_client import ZmqClient
from tests.faults.ledger import Ledger
from tests.faults.nodes import PATIENCE_S, RATEL, ROOT, TENANT, Balancer, Node, wait_until

Debit = Callable[[str, str, int], Any]
"""Makes one debit: key, subject, amount; the credit left. Raises Cut when it may be repeated."""


class Cut(Exception):
    """The connection ended, or the server said that it shuts down: to be repeated with the same key."""


class Refused(Exception):
    """A connection was refused: with another address to go to that is no failure."""


def fields_of(key: str, subject: str, amount: int) -> dict[str, Any]:
    return {"CstmId": TENANT, "Subject": subject, "Amount": amount, "RequestId": key}


class Http:
    """An ordinary HTTP client, with `keep_alive` or a connection for each request. Addresses take turns."""

    def __init__(self, addresses: Sequence[Address], *, keep_alive: bool) -> None:
        self._addresses = itertools.cycle(addresses)
        self._keep_alive = keep_alive
        self._connection: http.client.HTTPConnection | None = None

    def __call__(self, key: str, subject: str, amount: int) -> Any:
        connection = self._connection
        if connection is None:
            address = next(self._addresses)
            connection = http.client.HTTPConnection(address.host, address.port, timeout=PATIENCE_S)
        try:
            headers = {"Idempotency-Key": key} | ({} if self._keep_alive else {"Connection": "close"})
            path = f"/debitbalance?cstmid={TENANT}&subj={subject}&dest=0256&amount={amount}"
            connection.request("POST", path, headers=headers)
            response = connection.getresponse()
            body = response.read()
        except ConnectionRefusedError as error:
            self._end(connection)
            raise Refused from error
        except (OSError, http.client.HTTPException) as error:
            self._end(connection)
            raise Cut from error
        self._connection = connection
        if response.will_close or not self._keep_alive:
            self._end(connection)
        if response.status == 503 and b"shutting_down" in body:
            raise Cut
        assert response.status == 200, (response.status, body)
        return json.loads(body)

    def _end(self, connection: http.client.HTTPConnection) -> None:
        connection.close()
        self._connection = None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


class PlainRpc:
    """A JSON-RPC client as simple as can be: `keep_alive` or a connection for each call."""

    def __init__(self, addresses: Sequence[Address], *, keep_alive: bool) -> None:
        self._addresses = itertools.cycle(addresses)
        self._keep_alive = keep_alive
        self._socket: socket.socket | None = None

    def __call__(self, key: str, subject: str, amount: int) -> Any:
        call = {"method": "Responder.DebitBalance", "params": [fields_of(key, subject, amount)], "id": 1}
        try:
            if self._socket is None:
                self._socket = socket.create_connection(next(self._addresses), timeout=PATIENCE_S)
            self._socket.sendall(json.dumps(call).encode())
            data = b""
            while not data.endswith(b"}\n") and not data.endswith(b"}"):
                piece = self._socket.recv(65536)
                if not piece:
                    raise ConnectionResetError
                data += piece
            answer = json.loads(data)
        except ConnectionRefusedError as error:
            raise Refused from error
        except OSError as error:
            self.close()
            raise Cut from error
        if not self._keep_alive:
            self.close()
        if answer["error"] and "shutting_down" in str(answer["error"]):
            raise Cut
        assert answer["error"] is None, answer
        return answer["result"]

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Library:
    def __init__(self, addresses: Sequence[Address]) -> None:
        self._client = JSONClient(addresses, timeout_s=PATIENCE_S)

    def __call__(self, key: str, subject: str, amount: int) -> Any:
        return self._client.call("DebitBalance", fields_of(key, subject, amount))

    def close(self) -> None:
        self._client.close()


class Zmq:
    def __init__(self, addresses: Sequence[Address]) -> None:
        self._client = ZmqClient([str(address) for address in addresses], timeout_s=PATIENCE_S)

    def __call__(self, key: str, subject: str, amount: int) -> Any:
        return self._client.call("DebitBalance", fields_of(key, subject, amount))

    def close(self) -> None:
        self._client.close()


class Traffic:
    """A context manager; leaving it stops the clients and raises what went wrong."""

    def __init__(
        self,
        accounts: dict[str, int],
        *,
        jsonrpc: Sequence[Address] = (),
        http: Sequence[Address] = (),
        router: Sequence[Address] = (),
        each: int = 1,
    ) -> None:
        self.ledger = Ledger(TENANT, accounts)
        kinds: list[tuple[str, Callable[[], Any]]] = []
        if jsonrpc:
            kinds += [
                ("library", lambda: Library(jsonrpc)),
                ("plain JSON-RPC", lambda: PlainRpc(jsonrpc, keep_alive=True)),
                ("JSON-RPC, a connection each", lambda: PlainRpc(jsonrpc, keep_alive=False)),
            ]
        if http:
            kinds += [
                ("HTTP keep-alive", lambda: Http(http, keep_alive=True)),
                ("HTTP, a connection each", lambda: Http(http, keep_alive=False)),
            ]
        if router:
            kinds += [("ZeroMQ", lambda: Zmq(router))]
        self.kinds = [name for name, _ in kinds]
        self.done: Counter[str] = Counter()
        self.cut: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.failures: list[str] = []
        self.times_s: dict[str, list[tuple[float, float]]] = {name: [] for name in self.kinds}
        """Of each request: when it ended, and how long it took, repetitions included."""
        self._accounts = list(accounts)
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(f"{name}/{number}", name, make))
            for name, make in kinds
            for number in range(each)
        ]

    def _work(self, prefix: str, name: str, make: Callable[[], Any]) -> None:
        client = make()
        try:
            for count in itertools.count():
                if self._stop.is_set():
                    return
                key, subject = f"{prefix}/{count}", self._accounts[count % len(self._accounts)]
                amount = 1 + count % 7
                self.ledger.intend(key, subject, amount)
                began_s = time.monotonic()
                left = self._debit(client, name, key, subject, amount)
                ended_s = time.monotonic()
                self.times_s[name].append((ended_s, ended_s - began_s))
                self.ledger.acknowledge(key, left)
                self.done[name] += 1
        except Exception as error:
            self.failures.append(f"{name}: {error!r} {error.__cause__!r}")
        finally:
            client.close()

    def _debit(self, client: Debit, name: str, key: str, subject: str, amount: int) -> Any:
        began_s = time.monotonic()
        while True:
            try:
                return client(key, subject, amount)
            except Cut:
                self.cut[name] += 1
            except Refused:
                self.refused[name] += 1
            assert time.monotonic() < began_s + PATIENCE_S, f"{key} got no answer"

    def wait(self, each: int = 20) -> None:
        """Until every kind of client has made so many more debits."""
        goals = {name: self.done[name] + each for name in self.kinds}
        wait_until(
            lambda: self.failures or all(self.done[name] >= goal for name, goal in goals.items()),
            f"{each} debits of each kind: {self.done}",
        )
        assert not self.failures, self.failures

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        self.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)
        print(self.report())
        assert not self.failures, self.failures

    def report(self) -> str:
        lines = []
        for name in self.kinds:
            took_ms = sorted(took * 1000 for _, took in self.times_s[name])
            p50, p99, most = (took_ms[int((len(took_ms) - 1) * share)] for share in (0.5, 0.99, 1))
            lines.append(
                f"{name:28} {self.done[name]:6} done, cut {self.cut[name]}, refused {self.refused[name]}; "
                f"p50 {p50:.1f}, p99 {p99:.1f}, most {most:.0f} ms"
            )
        return "\n".join(lines)

    def rate_per_s(self, from_s: float, until_s: float) -> float:
        ended = [at for times in self.times_s.values() for at, _ in times if from_s <= at < until_s]
        return len(ended) / (until_s - from_s)

    def longest_pause_ms(self, from_s: float, until_s: float) -> float:
        """The longest time in which no client of any kind had an answer."""
        ended = sorted(at for times in self.times_s.values() for at, _ in times if from_s <= at < until_s)
        return max(later - earlier for earlier, later in pairwise([from_s, *ended, until_s])) * 1000

    def check(self, store: Any) -> None:
        """What was acknowledged is in the journal once, and nothing else is."""
        reckoning = self.ledger.reckon(store)
        assert reckoning.clean, reckoning
        assert not reckoning.unresolved, reckoning


HAND_OVER = """
import os, sys
fds = [os.dup2(int(fd), 100 + place) for place, fd in enumerate(sys.argv[1].split(","))]
for place, fd in enumerate(fds):
    os.dup2(fd, 3 + place)
    os.close(fd)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": sys.argv[2]}
os.execv(sys.argv[3], sys.argv[3:])
"""


class SocketActivated(Balancer):
    """A balancer whose sockets somebody else holds and hands over at each start, as systemd does."""

    def __init__(self, name: str, folder: Path, *options: str) -> None:
        super().__init__(name, folder, *options)
        doors = {"jsonrpc": self.jsonrpc, "http": self.http, "router": self.router}
        self._listeners = {
            door: socket.create_server(address, backlog=1024) for door, address in doors.items()
        }
        fds = ",".join(str(listener.fileno()) for listener in self._listeners.values())
        self.command = [sys.executable, "-c", HAND_OVER, fds, ":".join(doors), *self.command]

    def start(self) -> None:
        assert not self.alive
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=[listener.fileno() for listener in self._listeners.values()],
            )

    def close(self) -> None:
        for listener in self._listeners.values():
            listener.close()


FAKE_SYSTEMCTL = """#!{python}
import socket, sys
with socket.socket(socket.AF_UNIX) as manager:
    manager.connect({path!r})
    manager.sendall("\\n".join(sys.argv[1:]).encode())
    manager.shutdown(socket.SHUT_WR)
    code, _, output = manager.makefile().read().partition("\\n")
print(output, end="")
sys.exit(int(code))
"""


class ServiceManager:
    """Stands in for systemd: a `systemctl` whose units are nodes. It waits till what it restarts is ready."""

    def __init__(self, folder: Path, units: dict[str, Node], ready: Callable[[str], bool]) -> None:
        self.folder = folder / "bin"
        self.folder.mkdir()
        self.units = units
        self.restarted: list[str] = []
        self.broken = ""
        """The unit that does not start again."""
        self._ready = ready
        path = folder / "manager"
        script = self.folder / "systemctl"
        script.write_text(FAKE_SYSTEMCTL.format(python=sys.executable, path=str(path)))
        script.chmod(0o755)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                code, output = self._obey(connection.makefile().read().split("\n"))
                connection.sendall(f"{code}\n{output}".encode())

    def _obey(self, words: list[str]) -> tuple[int, str]:
        if words[0] == "list-units":
            units = [name for name in self.units if fnmatch(name, words[-1])]
            return 0, "".join(f"{name} loaded active running it\n" for name in units)
        if words[0] == "is-active":
            return int(words[-1] not in self.units), ""
        name = words[-1]
        node = self.units[name]
        node.terminate()
        self.restarted.append(name)
        if name == self.broken:
            return 1, ""
        node.start()
        wait_until(lambda: self._ready(name), f"{name} is ready")
        return 0, ""

    def roll(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*RATEL, "roll", *words],
            env=os.environ | {"PATH": f"{self.folder}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
