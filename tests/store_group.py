"""A primary, its replicas and their sentinels as processes on loopback, for tests that break them.

    with StoreGroup(tmp_path, replicas=1, sentinels=3) as group:
        store = StoreConnection(group.url)  # redis+sentinel://…, without sentinels the first store's redis://
        group.kill_primary()                # the sentinels make a replica the primary within seconds

Members are called `store-0` (the first primary), `store-1` …, `sentinel-0` …; every method that takes a
name takes one of these. Sentinels rewrite their configuration files. See `tests.store_members`.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final, Literal

from common.errors import StoreUnavailable
from common.storage.embedded_store import find_server
from tests.store_members import Member, Members, free_ports, wait_until

SERVICE: Final = "ratel"
DOWN_AFTER_MS: Final = 1_000
FAILOVER_TIMEOUT_MS: Final = 3_000
PATIENT_MS: Final = 30_000


def is_redis_7_0(server: str = "") -> bool:
    """Which has no WAITAOF, so no level of durability that waits for a disk."""
    said = subprocess.run([server or find_server(), "--version"], capture_output=True, check=True).stdout
    return b" v=7.0." in said and b"Redis" in said


class StoreGroup(Members):
    def __init__(
        self,
        folder: Path,
        replicas: int = 1,
        sentinels: int = 3,
        appendfsync: Literal["always", "everysec", "no"] = "always",
        *,
        password: str = "",
    ) -> None:
        self._appendfsync = appendfsync
        self._password = password
        self._stores = [f"store-{n}" for n in range(1 + replicas)]
        self._sentinels = [f"sentinel-{n}" for n in range(sentinels)]
        names = [*self._stores, *self._sentinels]
        super().__init__(folder, names, free_ports(len(names)))

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

    def begin(self) -> None:
        for name in self._stores:
            self._write_config(name, self._store_config(name))
            self._start(name)
        wait_until(lambda: all(map(self.is_in_step, self._stores[1:])), "replicas in step")
        for name in self._sentinels:
            self._write_config(name, self._sentinel_config(name))
            self._start(name)
        wait_until(lambda: all(map(self._sees_all, self._sentinels)), "sentinels that know each other")

    def node_url(self, name: str) -> str:
        login = f":{self._password}@" if self._password else ""
        return f"redis://{login}127.0.0.1:{self._ports[name]}"

    # --- who is who ---------------------------------------------------------------------------------

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

    # --- faults -------------------------------------------------------------------------------------

    def kill_primary(self) -> Member:
        return self.kill(self.primary().name)

    def make_sentinels_patient(self) -> None:
        """From now on they take nobody for dead that only waits for the processor.

        An old primary that is back is made a replica when it was not taken for dead for 8 s, nor the new one:
        where processes wait for more than DOWN_AFTER_MS again and again, that is never.
        """
        patience = ("SENTINEL", "SET", SERVICE, "down-after-milliseconds", PATIENT_MS)
        wait_until(
            lambda: all(self.ask(name, *patience) == b"OK" for name in self._sentinels), "patient sentinels"
        )

    # --- waiting ------------------------------------------------------------------------------------

    def wait_for_new_primary(self, old: str) -> Member:
        """Wait until another one than `old` is the primary and says so itself."""

        def found() -> bool:
            primary = self.primary().name
            return primary != old and self.role(primary) == "master"

        wait_until(found, f"another primary than {old}")
        return self.primary()

    # --- inside -------------------------------------------------------------------------------------

    def server(self) -> str:
        return find_server()

    def _sees_all(self, sentinel: str) -> bool:
        reply = self.ask(sentinel, "SENTINEL", "MASTER", SERVICE)
        if not isinstance(reply, list):
            return False
        state = dict(zip(reply[::2], reply[1::2], strict=True))
        others = int(state[b"num-slaves"]), int(state[b"num-other-sentinels"])
        return others == (len(self._stores) - 1, len(self._sentinels) - 1)

    def _named_by(self, sentinel: str) -> int:
        reply = self.ask(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return int(reply[1]) if isinstance(reply, list) else 0

    def _start(self, name: str) -> None:
        words = [self.server(), str(self._folder / name / "conf")]
        self._launch(name, [*words, "--sentinel"] if name in self._sentinels else words)

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
