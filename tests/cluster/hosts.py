"""Hosts of a cluster on one machine: a network namespace each, and cables between some of them.

Every host has one address, on its loopback device, and a route to each host that it has a cable to: there
is no way around a cable that is cut. Everything that was made ends with the `Network`, and what a
predecessor left behind that was killed is removed first.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType

from tests.cluster.wire import inside
from tests.faults.nodes import ROOT

PREFIX = "ratel-test"
NETWORK = "10.77.0"
WAIT_S = 20


def ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
    return done.stdout


class Network:
    """A context manager. `cables` are pairs of hosts' names, and are called `one-other`."""

    def __init__(
        self,
        hosts: Sequence[str],
        cables: Iterable[tuple[str, str]],
        *,
        delay_ms: float,
        jitter_ms: float,
        loss: float,
    ) -> None:
        self.address = {host: f"{NETWORK}.{number}" for number, host in enumerate(hosts, 1)}
        self.cables = {f"{one}-{other}": (one, other) for one, other in cables}
        self.counts: dict[str, int] = {}
        """Of packets, once it is closed."""
        self._weather = (str(delay_ms), str(jitter_ms), str(loss))
        self._wire: subprocess.Popen[str] | None = None

    def namespace(self, host: str) -> str:
        return f"{PREFIX}-{os.getpid()}-{host}"

    def on(self, host: str, command: Sequence[str]) -> list[str]:
        """The command line that runs it there."""
        return ["ip", "netns", "exec", self.namespace(host), *command]

    def inside(self, host: str) -> AbstractContextManager[None]:
        """Have this thread there, with all that it starts meanwhile."""
        return inside(self.namespace(host))

    def cut(self, *cables: str) -> None:
        self._tell("cut", cables)

    def mend(self, *cables: str) -> None:
        self._tell("mend", cables)

    def _tell(self, verb: str, cables: Sequence[str]) -> None:
        assert self._wire is not None
        assert self._wire.stdin is not None
        assert self._wire.stdout is not None
        for cable in cables:
            assert cable in self.cables, cable
            self._wire.stdin.write(f"{verb} {cable}\n")
            self._wire.stdin.flush()
            assert self._wire.stdout.readline() == "ok\n"

    def __enter__(self) -> Network:
        try:
            _remove_leftovers()
            for host, address in self.address.items():
                ip("netns", "add", self.namespace(host))
                ip("-n", self.namespace(host), "link", "set", "lo", "up")
                ip("-n", self.namespace(host), "address", "add", f"{address}/32", "dev", "lo")
            self._lay_cables()
        except BaseException:
            self.close()
            raise
        return self

    def _lay_cables(self) -> None:
        words = [sys.executable, "-m", "tests.cluster.wire", *self._weather]
        for name, (one, other) in self.cables.items():
            words.append(f"{name}:{self.namespace(one)}/to-{other}:{self.namespace(other)}/to-{one}")
        self._wire = subprocess.Popen(
            words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._wire.stdout is not None
        assert self._wire.stdout.readline() == "ready\n"
        for one, other in self.cables.values():
            for here, there in ((one, other), (other, one)):
                ip("-n", self.namespace(here), "link", "set", f"to-{there}", "up")
                way = ("dev", f"to-{there}", "src", self.address[here])
                ip("-n", self.namespace(here), "route", "add", f"{self.address[there]}/32", *way)

    def close(self) -> None:
        if self._wire is not None:
            rest, _ = self._wire.communicate(timeout=WAIT_S)  # which ends its stdin
            with suppress(ValueError):
                self.counts = json.loads(rest)
        for host in self.address:
            _remove(self.namespace(host))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _remove(namespace: str) -> None:
    """The namespace, if there is one, and whatever still runs in it."""
    if not Path(f"/run/netns/{namespace}").exists():
        return
    for pid in ip("netns", "pids", namespace).split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    ip("netns", "delete", namespace)


def _remove_leftovers() -> None:
    """Those of test runs that are no more."""
    for path in Path("/run/netns").glob(f"{PREFIX}-*"):
        pid = path.name.removeprefix(f"{PREFIX}-").partition("-")[0]
        if not Path(f"/proc/{pid}").exists():
            _remove(path.name)
