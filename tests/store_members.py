"""Stores as processes on loopback, whatever they are together: started, asked, killed, paused, started again.

Members keep their ports and folders, so `restart` brings one back as it was, with what was in its append-only
file and in its configuration file. What one says is in `<folder>/<name>/log`.

Members die with the thread that started them: a thread that restarts some must live as long as the group.
"""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from common.errors import StoreUnavailable
from common.process.child import die_with_parent
from common.storage.store import Command, StoreConnection

WAIT_S: Final = 60.0
"""Beyond it something is broken: every wait in here takes a few seconds on an idle machine."""

_PORTS: Final = range(15_000, 30_000)
"""Below those that systems give to outgoing connections, so that nobody takes a dead member's port."""


class Member(NamedTuple):
    name: str
    port: int
    pid: int

    @property
    def url(self) -> str:
        """Of this very server, whatever its role; without the password."""
        return f"redis://127.0.0.1:{self.port}"


class Members:
    def __init__(self, folder: Path, names: Sequence[str], ports: Sequence[int]) -> None:
        self._folder = folder
        self._ports = dict(zip(names, ports, strict=True))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @abstractmethod
    def begin(self) -> None:
        """Start all members and make of them what they are together."""

    @abstractmethod
    def node_url(self, name: str) -> str:
        """Of this very member, as tests ask it."""

    @abstractmethod
    def _start(self, name: str) -> None:
        """By `_launch`, with what is its own."""

    def __enter__(self) -> Self:
        try:
            self.begin()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End all members, whatever state they are in."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()

    # --- who is who ---------------------------------------------------------------------------------

    def member(self, name: str) -> Member:
        return Member(name, self._ports[name], self._processes[name].pid)

    def role(self, name: str) -> str:
        """`master` or `slave`, as it says itself; empty when it does not answer."""
        reply = self.ask(name, "ROLE")
        return reply[0].decode() if isinstance(reply, list) else ""

    def ask(self, name: str, *words: str | int) -> Any:
        """One reply of a member; None when it does not answer."""
        return self.ask_all(name, [words])[0]

    def ask_all(self, name: str, commands: list[Command]) -> list[Any]:
        try:
            with StoreConnection(self.node_url(name), timeout_ms=1_000) as connection:
                return connection.execute(commands)
        except StoreUnavailable:
            return [None] * len(commands)

    # --- faults -------------------------------------------------------------------------------------

    def kill(self, name: str) -> Member:
        """kill -9; the member that it was."""
        member = self.member(name)
        self._processes[name].kill()
        self._processes[name].wait()
        return member

    def pause(self, name: str) -> None:
        self._processes[name].send_signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        self._processes[name].send_signal(signal.SIGCONT)

    def restart(self, name: str) -> Member:
        """Start a member again, after killing it if it runs, and wait until it answers."""
        self.kill(name)
        self._start(name)
        return self.member(name)

    # --- waiting ------------------------------------------------------------------------------------

    def wait_for_replica(self, name: str) -> None:
        """Wait until it is a replica that has all that its primary has at this moment."""
        wait_until(lambda: self.is_in_step(name), f"{name} being in step")

    def is_in_step(self, name: str) -> bool:
        role = self.ask(name, "ROLE")
        if not isinstance(role, list) or role[0] != b"slave" or role[3] != b"connected":
            return False
        source = next(other for other in self._ports if self._ports[other] == int(role[2]))
        primary, role = self.ask(source, "ROLE"), self.ask(name, "ROLE")
        return isinstance(primary, list) and isinstance(role, list) and bool(role[-1] >= primary[1])

    def _launch(self, name: str, words: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        folder = self._folder / name
        with (folder / "log").open("ab") as output:
            self._processes[name] = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                preexec_fn=die_with_parent,
                start_new_session=True,
            )

        def answers() -> bool:
            assert self._processes[name].poll() is None, (folder / "log").read_text()[-2_000:]
            return bool(self.ask(name, "PING") == b"PONG")

        wait_until(answers, f"{name} answering")


def free_ports(count: int) -> list[int]:
    chosen: list[int] = []
    ports = random.SystemRandom()
    while len(chosen) < count:
        port = ports.choice(_PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in chosen:
            chosen.append(port)
    return chosen


def wait_until(condition: Callable[[], bool], what: str) -> None:
    give_up_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < give_up_s, f"waited {WAIT_S:.0f} s in vain for {what}"
        time.sleep(0.05)
