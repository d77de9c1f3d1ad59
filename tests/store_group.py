"""A primary, its replicas and their sentinels as processes on loopback, for tests that break them.

    with StoreGroup(tmp_path, replicas=1, sentinels=3) as group:
        store = StoreConnection(group.url)  # redis+sentinel://…, without sentinels the first store's redis://
        group.kill_primary()                # the sentinels make a replica the primary within seconds

Members are called `store-0` (the first primary), `store-1` …, `sentinel-0` …; every method that takes a
name takes one of these. They keep their ports and folders, so `restart` brings one back as it was, with
what was in its append-only file and in its configuration file, which sentinels rewrite. What a member
says is in `<folder>/<name>/log`.

Members die with the thread that started them: a thread that restarts some must live as long as the group.
"""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from common.errors import StoreUnavailable
from common.process.child import die_with_parent
from common.storage.embedded_store import find_server
from common.storage.store import StoreConnection

SERVICE: Final = "ratel"
DOWN_AFTER_MS: Final = 1_000
FAILOVER_TIMEOUT_MS: Final = 3_000
WAIT_S: Final = 60.0
"""Beyond it something is broken: every wait in here takes a few seconds on an idle machine."""

_PORTS: Final = range(15_000, 30_000)
"""Below those that systems give to outgoing connections, so that nobody takes a dead member's port."""


def is_redis_7_0(server: str = "") -> bool:
    """Which has no WAITAOF, so no level of durability that waits for a disk."""
    said = subprocess.run([server or find_server(), "--version"], capture_output=True, check=True).stdout
    return b" v=7.0." in said and b"Redis" in said


class Member(NamedTuple):
    name: str
    port: int
    pid: int

    @property
    def url(self) -> str:
        """Of this very server, whatever its role; without the password."""
        return f"redis://127.0.0.1:{self.port}"


class StoreGroup:
    def __init__(
        self,
        folder: Path,
        replicas: int = 1,
        sentinels: int = 3,
        appendfsync: Literal["always", "everysec", "no"] = "always",
        *,
        password: str = "",
    ) -> None:
        self._folder = folder
        self._appendfsync = appendfsync
        self._password = password
        self._stores = [f"store-{n}" for n in range(1 + replicas)]
        self._sentinels = [f"sentinel-{n}" for n in range(sentinels)]
        names = [*self._stores, *self._sentinels]
        self._ports = dict(zip(names, free_ports(len(names)), strict=True))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def url(self) -> str:
        """What `--store` takes."""
        login = f":{self._password}@" if self._password else ""
        if not self._sentinels:
            return f"redis://{login}127.0.0.1:{self._ports['store-0']}"
        hosts = ",".join(f"127.0.0.1:{self._ports[name]}" for name in self._sentinels)
        options = f"?sentinel_password={self._password}" if self._password else ""
        return f"redis+sentinel://{login}{hosts}/{SERVICE}{options}"

    @property
    def names(self) -> list[str]:
        """Of the stores."""
        return list(self._stores)

    def __enter__(self) -> StoreGroup:
        try:
            for name in self._stores:
                self._write_config(name, self._store_config(name))
                self._start(name)
            wait_until(lambda: all(self._is_in_step(name) for name in self._stores[1:]), "replicas in step")
            for name in self._sentinels:
                self._write_config(name, self._sentinel_config(name))
                self._start(name)
            wait_until(lambda: all(map(self._sees_all, self._sentinels)), "sentinels that know each other")
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

    def primary(self) -> Member:
        """The one that most reachable sentinels name; without sentinels, the first that says it is one.

        Raises StoreUnavailable when there is none to ask.
        """
        if not self._sentinels:
            return self.member(next(name for name in self._stores if self.role(name) == "master"))
        named = [port for name in self._sentinels if (port := self._named_by(name))]
        if not named:
            raise StoreUnavailable(detail="no sentinel answers")
        port = max(named, key=named.count)
        return self.member(next(name for name in self._stores if self._ports[name] == port))

    def replicas(self) -> list[Member]:
        """All other stores, running or not."""
        primary = self.primary().name
        return [self.member(name) for name in self._stores if name != primary]

    def role(self, name: str) -> str:
        """`master` or `slave`, as the store itself says; empty when it does not answer."""
        reply = self._ask(name, "ROLE")
        return reply[0].decode() if isinstance(reply, list) else ""

    # --- faults -------------------------------------------------------------------------------------

    def kill(self, name: str) -> Member:
        """kill -9; the member that it was."""
        member = self.member(name)
        self._processes[name].kill()
        self._processes[name].wait()
        return member

    def kill_primary(self) -> Member:
        return self.kill(self.primary().name)

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

    def wait_for_new_primary(self, old: str) -> Member:
        """Wait until another one than `old` is the primary and says so itself."""

        def found() -> bool:
            primary = self.primary().name
            return primary != old and self.role(primary) == "master"

        wait_until(found, f"another primary than {old}")
        return self.primary()

    def wait_for_replica(self, name: str) -> None:
        """Wait until `name` is a replica that has all that its primary has at this moment."""
        wait_until(lambda: self._is_in_step(name), f"{name} being in step")

    # --- inside -------------------------------------------------------------------------------------

    def _url_of(self, name: str) -> str:
        login = f":{self._password}@" if self._password else ""
        return f"redis://{login}127.0.0.1:{self._ports[name]}"

    def _ask(self, name: str, *words: str) -> Any:
        """One reply of a member; None when it does not answer."""
        try:
            with StoreConnection(self._url_of(name), timeout_ms=1_000) as connection:
                return connection.execute([words])[0]
        except StoreUnavailable:
            return None

    def server(self) -> str:
        return find_server()

    def _is_in_step(self, name: str) -> bool:
        role = self._ask(name, "ROLE")
        if not isinstance(role, list) or role[0] != b"slave" or role[3] != b"connected":
            return False
        source = next(other for other in self._stores if self._ports[other] == int(role[2]))
        primary, role = self._ask(source, "ROLE"), self._ask(name, "ROLE")
        return isinstance(primary, list) and isinstance(role, list) and bool(role[-1] >= primary[1])

    def _sees_all(self, sentinel: str) -> bool:
        reply = self._ask(sentinel, "SENTINEL", "MASTER", SERVICE)
        if not isinstance(reply, list):
            return False
        state = dict(zip(reply[::2], reply[1::2], strict=True))
        others = int(state[b"num-slaves"]), int(state[b"num-other-sentinels"])
        return others == (len(self._stores) - 1, len(self._sentinels) - 1)

    def _named_by(self, sentinel: str) -> int:
        reply = self._ask(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return int(reply[1]) if isinstance(reply, list) else 0

    def _start(self, name: str) -> None:
        folder = self._folder / name
        words = [self.server(), str(folder / "conf")]
        with (folder / "log").open("ab") as output:
            self._processes[name] = subprocess.Popen(
                [*words, "--sentinel"] if name in self._sentinels else words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=die_with_parent,
                start_new_session=True,
            )

        def answers() -> bool:
            assert self._processes[name].poll() is None, (folder / "log").read_text()[-2_000:]
            return bool(self._ask(name, "PING") == b"PONG")

        wait_until(answers, f"{name} answering")

    def _write_config(self, name: str, lines: list[str]) -> None:
        folder = self._folder / name
        folder.mkdir(parents=True)
        common = ["bind 127.0.0.1", f"port {self._ports[name]}", f'dir "{folder}"']
        if self._password:
            common.append(f"requirepass {self._password}")
        (folder / "conf").write_text("\n".join([*common, *lines]) + "\n")

    def _store_config(self, name: str) -> list[str]:
        lines = [
            "appendonly yes",
            f"appendfsync {self._appendfsync}",
            'save ""',
            "maxmemory-policy noeviction",
            "repl-diskless-sync-delay 0",
        ]
        if self._password:
            lines.append(f"primaryauth {self._password}")
        if name != "store-0":
            lines.append(f"replicaof 127.0.0.1 {self._ports['store-0']}")
        return lines

    def _sentinel_config(self, name: str) -> list[str]:
        quorum = len(self._sentinels) // 2 + 1
        lines = [
            f"sentinel monitor {SERVICE} 127.0.0.1 {self._ports['store-0']} {quorum}",
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {SERVICE} {FAILOVER_TIMEOUT_MS}",
            f"sentinel parallel-syncs {SERVICE} 1",
        ]
        if self._password:
            lines.append(f"sentinel auth-pass {SERVICE} {self._password}")
            lines.append(f"sentinel sentinel-pass {self._password}")
        return lines


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
