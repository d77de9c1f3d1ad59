"""Stores and sentinels as an operator deploys them: by the files in deploy/store, with ACL users, and TLS.

Only paths, ports, passwords and what the files say to uncomment are filled in.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from common.storage.embedded_store import find_server
from rater.store.users import OPERATOR, RATER, REPLICA, SENTINEL, SENTINEL_USERS, STORE_USERS, acl_file
from tests.certificates import HERE, Authority
from tests.store_group import SERVICE, StoreGroup

DEPLOYED: Final = Path(__file__).resolve().parents[1] / "deploy" / "store"
REDIS: Final = "/usr/bin/redis-server"
"""Debian's, which speaks TLS. The server that comes with Ratel does not."""
TESTER: Final = "user tester on >tester allkeys allchannels +@all\n"
"""What tests need themselves, such as to read the log of refused commands."""


def has_redis() -> bool:
    return shutil.which(REDIS) is not None


class SecuredGroup(StoreGroup):
    def __init__(
        self,
        folder: Path,
        replicas: int = 0,
        sentinels: int = 0,
        *,
        tls: Authority | None = None,
        server: str = "",
        redis_7_0: bool = False,
    ) -> None:
        super().__init__(folder, replicas, sentinels)
        self._server = server or find_server()
        self._tls = tls
        self.redis_7_0 = redis_7_0
        if tls is not None:
            self._pair, self._clients = tls.issue(*HERE), tls.issue("rater.example")
        self.passwords = {user.name: f"secret-of-{user.name}" for user in STORE_USERS}

    def server(self) -> str:
        return self._server

    def url_for(self, user: str) -> str:
        """What `--store` takes, for one of the users."""
        login = f"{user}:{self.passwords[user]}"
        scheme = "rediss" if self._tls else "redis"
        if not self._sentinels:
            return f"{scheme}://{login}@127.0.0.1:{self._ports['store-0']}{self._options()}"
        hosts = ",".join(f"127.0.0.1:{self._ports[name]}" for name in self._sentinels)
        asks = [f"sentinel_user={user}", f"sentinel_password={self.passwords[user]}"]
        return f"{scheme}+sentinel://{login}@{hosts}/{SERVICE}{self._options(*asks)}"

    @property
    def url(self) -> str:
        return self.url_for(RATER)

    @property
    def operator_url(self) -> str:
        return self.url_for(OPERATOR)

    def tester_url(self, name: str = "store-0") -> str:
        return self.node_url(name)

    def _options(self, *more: str) -> str:
        tls: list[str] = []
        if self._tls is not None:
            cert, key = self._clients
            tls = [f"ssl_ca_certs={self._tls.ca}", f"ssl_certfile={cert}", f"ssl_keyfile={key}"]
        return f"?{'&'.join((*tls, *more))}" if tls or more else ""

    def node_url(self, name: str) -> str:
        scheme = "rediss" if self._tls else "redis"
        return f"{scheme}://tester:tester@127.0.0.1:{self._ports[name]}{self._options()}"

    def _store_config(self, name: str) -> list[str]:
        lines = _filled(DEPLOYED / "valkey.conf", {"#masteruser": "masteruser", "#include": "include"})
        if name != "store-0":
            lines.append(f"replicaof 127.0.0.1 {self._ports['store-0']}")
        return lines

    def _sentinel_config(self, name: str) -> list[str]:
        return _filled(
            DEPLOYED / "sentinel.conf", {"#sentinel auth": "sentinel auth", "#sentinel s": "sentinel s"}
        )

    def _write_config(self, name: str, lines: list[str]) -> None:
        folder = self._folder / name
        folder.mkdir(parents=True)
        is_sentinel = name in self._sentinels
        port = f"{self._ports[name]}"
        if self._tls is not None:
            lines = ["port 0" if line.startswith("port ") else line for line in _uncommented(lines, "#tls-")]
            cert, key = self._pair
            for old, new in (("store.pem", cert), ("store.key", key), ("ca.pem", self._tls.ca)):
                lines = [line.replace(f"/etc/ratel/store/{old}", str(new)) for line in lines]
        lines = [line.replace("/etc/ratel/store", str(folder)) for line in lines]
        lines = [line.replace("/var/lib/ratel-store", str(folder)) for line in lines]
        own = "26379" if is_sentinel else "6379"
        lines = [
            f"{line.removesuffix(own)}{port}" if line.endswith(f"port {own}") else line for line in lines
        ]
        monitored = f"{self._ports['store-0']}"
        lines = [line.replace("ratel 127.0.0.1 6379 ", f"ratel 127.0.0.1 {monitored} ") for line in lines]
        lines = [line.replace("PASSWORD", self.passwords[SENTINEL]) for line in lines]
        if is_sentinel:
            lines.append(f'dir "{folder}"')
        (folder / "conf").write_text("\n".join(lines) + "\n")
        users = SENTINEL_USERS if is_sentinel else STORE_USERS
        acl = acl_file(users, self.passwords, redis_7_0=self.redis_7_0) + TESTER
        (folder / ("sentinel-users.acl" if is_sentinel else "users.acl")).write_text(acl)
        (folder / "replica.conf").write_text(f"masterauth {self.passwords[REPLICA]}\n")


def _filled(file: Path, uncomment: dict[str, str]) -> list[str]:
    lines = file.read_text(encoding="utf-8").splitlines()
    return [line.partition("     #")[0] for line in _uncommented(lines, *uncomment)]


def _uncommented(lines: Sequence[str], *beginnings: str) -> list[str]:
    return [line.removeprefix("#") if line.startswith(beginnings) else line for line in lines]
