"""A cluster of stores as processes on loopback, for tests that break it and move its slots.

    with StoreCluster(tmp_path, primaries=3, replicas=3) as cluster:
        store = connect(cluster.url)          # redis+cluster://…
        cluster.kill(cluster.owner(slot).name) # its replica is the primary of its slots within seconds
        cluster.move_slot(slot, "store-1")    # key by key, as its tools do it

Members are called `store-0` …; the first are primaries, the others their replicas in turn, and after
failovers `primaries` says who is what. See `tests.store_members`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from common.errors import StoreUnavailable
from common.storage.cluster_map import SLOTS
from common.storage.embedded_store import find_server
from rater.store.users import RATER, REPLICA, STORE_USERS, acl_file
from tests.secured_group import TESTER
from tests.store_group import is_redis_7_0
from tests.store_members import Member, Members, free_ports, wait_until

NODE_TIMEOUT_MS: Final = 1_000
KEYS_AT_A_TIME: Final = 200
"""That MIGRATE takes; while it does, both nodes do nothing else."""

SERVERS: Final = {"valkey": find_server()} | (
    {"redis": found} if (found := shutil.which("redis-server")) else {}
)
"""Those that are here; the second is Debian's package redis-server."""

CHOSEN: Final = [name for name in SERVERS if name in os.environ.get("RATEL_TEST_SERVERS", "valkey")]
"""For what runs in `make check`: `make test-cluster` runs it on both."""


class StoreCluster(Members):
    def __init__(
        self,
        folder: Path,
        primaries: int = 3,
        replicas: int = 3,
        *,
        server: str = SERVERS["valkey"],
        appendfsync: str = "no",
        password: str = "",
        has_users: bool = False,
        options: tuple[str, ...] = (),
        environments: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
        certificates: Path | None = None,
    ) -> None:
        """With `has_users`, every node has the users that `ratel acl` makes. With `certificates`, a folder
        that has ca.crt, server.crt and server.key, all speak TLS only."""
        self._server = server
        self._appendfsync = appendfsync
        self._password = password
        self._passwords = {user.name: f"secret-of-{user.name}" for user in STORE_USERS} if has_users else {}
        self._options = options
        self._environments = environments
        self._certificates = certificates
        self._names = [f"store-{n}" for n in range(primaries + replicas)]
        self._primaries = primaries
        ports = free_ports(2 * len(self._names))
        super().__init__(folder, self._names, ports[: len(self._names)])
        self._bus_ports = dict(zip(self._names, ports[len(self._names) :], strict=True))
        self._ids: dict[str, str] = {}

    @property
    def url(self) -> str:
        """What `--store` of raters takes: three of the nodes, the others are to be found."""
        return self.url_for(RATER)

    def url_for(self, user: str) -> str:
        """For one of the users, where there are any."""
        login = f"{user}:{self._passwords[user]}@" if self._passwords else self._login
        hosts = ",".join(f"127.0.0.1:{self._ports[name]}" for name in self._names[:3])
        return f"{self._scheme}+cluster://{login}{hosts}{self._trust}"

    @property
    def _login(self) -> str:
        if self._passwords:
            return "tester:tester@"
        return f":{self._password}@" if self._password else ""

    @property
    def _scheme(self) -> str:
        return "rediss" if self._certificates else "redis"

    @property
    def _trust(self) -> str:
        return f"?ssl_ca_certs={self._certificates}/ca.crt" if self._certificates else ""

    def begin(self) -> None:
        for name in self._names:
            self._start(name)
        self._join()

    # --- who is who ---------------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        return list(self._names)

    def owner(self, slot: int, *, by: str = "") -> Member:
        """Who serves a slot, as `by` says, or the first that answers."""
        for first, last, (_, port, *_), *_ in self._slots(by):
            if first <= slot <= last:
                return self.member(next(name for name in self._names if self._ports[name] == port))
        raise AssertionError(f"nobody serves slot {slot}")

    def ranges(self, first: int, last: int) -> list[tuple[int, int, str]]:
        """Between these slots, both included: the first and the last of each range, and whose it is."""
        names = {port: name for name, port in self._ports.items()}
        return [
            (max(first, begin), min(last, end), names[port])
            for begin, end, (_, port, *_), *_ in self._slots("")
            if begin <= last and end >= first
        ]

    def replicas(self, name: str) -> list[str]:
        """Of this primary, those that are connected to it."""
        role = self.ask(name, "ROLE")
        ports = [int(port) for _, port, _ in role[2]] if isinstance(role, list) else []
        return [other for other in self._names if self._ports[other] in ports]

    def node_url(self, name: str) -> str:
        return f"{self._scheme}://{self._login}127.0.0.1:{self._ports[name]}{self._trust}"

    def wait_for_new_owner(self, slot: int, old: str) -> Member:
        """Wait until another one than `old` serves a slot, and says so itself."""
        asked = next(name for name in self._names if name != old)

        def found() -> bool:
            new = self.owner(slot, by=asked)
            return new.name != old and self.role(new.name) == "master"

        wait_until(found, f"another one than {old} for slot {slot}")
        return self.owner(slot, by=asked)

    # --- moving slots ---------------------------------------------------------------------------------

    def begin_move(self, slot: int, to: str) -> str:
        """From now on a key of the slot that is not where it was is asked for at `to`; where it was."""
        source = self.owner(slot).name
        self._must(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", self._ids[source])
        self._must(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", self._ids[to])
        return source

    def move_keys(self, slot: int, source: str, to: str, most: int = 1_000_000) -> int:
        """Move so many of its keys; how many there were."""
        moved = 0
        auth: tuple[str, ...] = ("AUTH", self._password) if self._password else ()
        auth = ("AUTH2", "tester", "tester") if self._passwords else auth
        while moved < most:
            count = min(KEYS_AT_A_TIME, most - moved)
            keys = self._must(source, "CLUSTER", "GETKEYSINSLOT", slot, count)
            if not keys:
                break
            self._must(source, "MIGRATE", "127.0.0.1", self._ports[to], "", 0, 5_000, *auth, "KEYS", *keys)
            moved += len(keys)
        return moved

    def end_move(self, slot: int, source: str, to: str) -> None:
        for name in (to, source):
            self._must(name, "CLUSTER", "SETSLOT", slot, "NODE", self._ids[to])

    def move_slot(self, slot: int, to: str) -> None:
        """Key by key, while it is being used."""
        source = self.begin_move(slot, to)
        while True:
            self.move_keys(slot, source, to)
            if not self._must(source, "CLUSTER", "COUNTKEYSINSLOT", slot):
                break
        self.end_move(slot, source, to)

    @property
    def moves_whole_slots(self) -> bool:
        """Whether it knows CLUSTER MIGRATESLOTS: Valkey since 9.0."""
        reply = self.ask(self._names[0], "CLUSTER", "GETSLOTMIGRATIONS")
        return isinstance(reply, list)

    def move_whole_slots(self, first: int, last: int, to: str) -> None:
        """All at once, by the server's own copying."""
        source = self.owner(first).name
        self._must(source, "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", first, last, "NODE", self._ids[to])

        def moved() -> bool:
            job = self._must(source, "CLUSTER", "GETSLOTMIGRATIONS")[0]
            state = dict(zip(job[::2], job[1::2], strict=True))
            assert state[b"state"] not in (b"failed", b"cancelled"), state
            return bool(state[b"state"] == b"success")

        wait_until(moved, f"slots {first} to {last} at {to}")

    # --- inside -------------------------------------------------------------------------------------

    def _must(self, name: str, *words: str | int) -> Any:
        reply = self.ask(name, *words)
        assert reply is not None, f"{name} does not answer to {words[:3]}"
        assert not isinstance(reply, Exception), f"{name}: {words[:3]}: {reply}"
        return reply

    def _slots(self, by: str) -> list[Any]:
        for name in [by] if by else self._names:
            reply = self.ask(name, "CLUSTER", "SLOTS")
            if isinstance(reply, list):
                return reply
        raise StoreUnavailable(detail="no node answers")

    def _join(self) -> None:
        primaries, replicas = self._names[: self._primaries], self._names[self._primaries :]
        for number, name in enumerate(self._names):
            self._must(name, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            self._ids[name] = self._must(name, "CLUSTER", "MYID").decode()
        for number, name in enumerate(primaries):
            first = number * SLOTS // self._primaries
            last = (number + 1) * SLOTS // self._primaries - 1
            self._must(name, "CLUSTER", "ADDSLOTSRANGE", first, last)
        for number, name in enumerate(self._names):
            for other in self._names[number + 1 :]:
                address = ("127.0.0.1", self._ports[other], self._bus_ports[other])
                self._must(name, "CLUSTER", "MEET", *address)
        wait_until(lambda: all(map(self._knows_all, self._names)), "nodes that know each other")
        for number, name in enumerate(replicas):
            primary = primaries[number % len(primaries)]
            self._must(name, "CLUSTER", "REPLICATE", self._ids[primary])
        wait_until(lambda: all(map(self.is_in_step, replicas)), "replicas in step")
        wait_until(lambda: all(map(self._is_ok, self._names)), "a cluster that works")

    def _knows_all(self, name: str) -> bool:
        nodes = self._must(name, "CLUSTER", "NODES").decode()
        return all(identity in nodes for identity in self._ids.values()) and "handshake" not in nodes

    def _is_ok(self, name: str) -> bool:
        info = self._must(name, "CLUSTER", "INFO").decode()
        slots = self._must(name, "CLUSTER", "SLOTS")
        copies = sum(len(rest) for _, _, _, *rest in slots)
        return "cluster_state:ok" in info and copies == len(self._names) - self._primaries

    def _start(self, name: str) -> None:
        folder = self._folder / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "conf").write_text("\n".join(self._config(name, folder)) + "\n")
        if self._passwords:
            acl = acl_file(STORE_USERS, self._passwords, redis_7_0=is_redis_7_0(self._server))
            (folder / "users.acl").write_text(acl + TESTER)
        self._launch(name, [self._server, str(folder / "conf")], self._environments.get(name))

    def _config(self, name: str, folder: Path) -> list[str]:
        lines = [
            "bind 127.0.0.1",
            f"{'tls-port' if self._certificates else 'port'} {self._ports[name]}",
            f'dir "{folder}"',
            "cluster-enabled yes",
            f"cluster-port {self._bus_ports[name]}",
            f"cluster-node-timeout {NODE_TIMEOUT_MS}",
            "cluster-require-full-coverage no",
            "cluster-allow-replica-migration no",
            "cluster-slave-validity-factor 0",
            "appendonly yes",
            f"appendfsync {self._appendfsync}",
            'save ""',
            "maxmemory-policy noeviction",
            "repl-diskless-sync-delay 0",
            *self._options,
        ]
        if folder_of := self._certificates:
            lines += [
                "port 0",
                "tls-cluster yes",
                "tls-replication yes",
                "tls-auth-clients no",
                f"tls-ca-cert-file {folder_of}/ca.crt",
                f"tls-cert-file {folder_of}/server.crt",
                f"tls-key-file {folder_of}/server.key",
            ]
        if self._passwords:
            lines += [
                f'aclfile "{folder}/users.acl"',
                f"masteruser {REPLICA}",
                f"masterauth {self._passwords[REPLICA]}",
            ]
        if self._password:
            lines += [f"requirepass {self._password}", f"masterauth {self._password}"]
        return lines
