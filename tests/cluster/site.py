"""A cluster on several hosts: a store, two balancers, three rater hosts, a gateway, a client.

    client ─┬─ b1 ─┬─ r1 ─┐
            ├─ b2 ─┼─ r2 ─┼─ store
            └─ gw ─┘  r3 ─┘        every balancer to every rater, the gateway to both balancers

Whatever speaks ZeroMQ has a key, and the store has the users of `ratel acl`.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable
from pathlib import Path

from common.addresses import Address
from common.security.curve import Role
from common.storage.embedded_store import find_server
from rater.store.users import OPERATOR, RATER, STORE_USERS, acl_file
from tests.cluster.hosts import Network
from tests.faults.nodes import Balancer, Gateway, Node, Site
from tests.keyring import KeyRing

BALANCERS = ("b1", "b2")
RATERS = ("r1", "r2", "r3")
HOSTS = ("store", *BALANCERS, *RATERS, "gw", "client")
CABLES = (
    *(("client", front) for front in (*BALANCERS, "gw")),
    *(("gw", balancer) for balancer in BALANCERS),
    *itertools.product(BALANCERS, RATERS),
    *((rater, "store") for rater in RATERS),
)
STORE_PORT = 6379
FRONT = ("--allow-insecure",)
"""Clients have no API keys here: this is about what is behind the front."""


def ports(host: str) -> Callable[[], Address]:
    """One address after the other of a host: nothing else listens there."""
    numbers = itertools.count(2000)
    return lambda: Address(host, next(numbers))


class HostedSite(Site):
    def __init__(self, folder: Path, network: Network) -> None:
        self.network = network
        self.ring = KeyRing(folder / "keys")
        self.passwords = {user: secrets.token_hex(16) for user in (RATER, OPERATOR)}
        super().__init__(folder, raters=0, balancers=0, store_url=self._url(OPERATOR))
        self.store_server = self._store()
        self.balancers = [
            Balancer(host, folder, *FRONT, *self.ring.balancer_options, address=ports(network.address[host]))
            for host in BALANCERS
        ]
        routers = [balancer.router for balancer in self.balancers]
        self.ring.new("gw", Role.CLIENT, allowed=True)
        self.gateway = Gateway(
            "gw", folder, routers, *FRONT, *self.ring.peer_options("gw"), address=ports(network.address["gw"])
        )
        for host in RATERS:
            self.ring.new(host, Role.RATER, allowed=True)
            options = self.ring.peer_options(host)
            self.raters.append(self.rater(host, *options, store_url=self._url(RATER)))
        for node in (*self.balancers, *self.raters, self.gateway):
            node.command = network.on(node.name, node.command)

    def _url(self, user: str) -> str:
        return f"redis://{user}:{self.passwords[user]}@{self.network.address['store']}:{STORE_PORT}/0"

    def _store(self) -> Node:
        data = self.folder / "data"
        data.mkdir(mode=0o700)
        users = self.folder / "users.acl"
        users.touch(mode=0o600)
        users.write_text(acl_file(STORE_USERS, self.passwords))
        options = {
            "bind": self.network.address["store"],
            "port": str(STORE_PORT),
            "dir": str(data),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "aclfile": str(users),
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        command = self.network.on("store", [find_server(), *words])
        return Node("store", command, self.folder / "store.log")

    @property
    def nodes(self) -> list[Node]:
        return [self.store_server, *self.balancers, *self.raters, self.gateway]

    def run(self, *args: str) -> str:
        """A `ratel` command on the store's host."""
        with self.network.inside("store"):
            return super().run(*args)
