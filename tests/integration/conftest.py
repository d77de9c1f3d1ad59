"""What integration tests share: one real store for the session, empty at the start of each test."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from common.storage.embedded_store import EmbeddedStore
from common.storage.store import StoreConnection
from common.storage.stores import Store
from rater.accounts.mutation import Mutation, MutationResult, PlanChanged, Refused
from rater.accounts.mutations import mutation_command, parse_account, parse_mutation_reply, read_command
from rater.accounts.opening import Opening, open_command, parse_open_reply
from rater.model import Account
from rater.store import scripts
from rater.store.keys import account_keys
from tests.integration.rpc_server import RpcServer, amount
from tests.stored import line_fields, with_figures

STORE_TIMEOUT_MS = 20_000
"""Generous: the machine that runs the tests may be busy with something else."""


@pytest.fixture(scope="session")
def store_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    """A running store; tests that kill or stop one start their own."""
    with EmbeddedStore(tmp_path_factory.mktemp("store"), appendfsync="no") as server:
        yield server


@pytest.fixture
def store(store_server: EmbeddedStore) -> Iterator[StoreConnection]:
    """A connection to the session's store, which is empty."""
    with StoreConnection(store_server.url, timeout_ms=STORE_TIMEOUT_MS) as connection:
        assert connection.execute([("FLUSHALL", "SYNC")]) == [b"OK"]
        yield connection


class Accounts:
    """Accounts in a store, as tests talk about them. Amounts are whole units unless said otherwise."""

    def __init__(self, store: Store, tenant: str = "vdf") -> None:
        self.store = store
        self.tenant = tenant
        self._tokens = count(1)

    def open(self, account: Account, *, replace: bool = False) -> Opening:
        keys = account_keys(self.tenant, account.subject)
        return parse_open_reply(
            scripts.execute(self.store, [open_command(keys, account, replace=replace)])[0]
        )

    def read(self, subject: str = "rif") -> Account | None:
        keys = account_keys(self.tenant, subject)
        [[value]] = self.store.execute([read_command([keys.account])])
        return parse_account(subject, value)

    def mutation(self, method: str, amount: int | float = 0, **fields: Any) -> Mutation:
        values: dict[str, Any] = {
            "tenant": self.tenant,
            "subject": "rif",
            "token": f"test.{next(self._tokens)}",
            "token_ttl_ms": 60_000,
            "amount_micros": round(amount * 1_000_000),
        }
        return Mutation(method=method, **(values | fields))

    def send(self, mutation: Mutation) -> MutationResult | Refused | PlanChanged:
        keys = account_keys(mutation.tenant, mutation.subject)
        [[reply]] = scripts.execute(self.store, [mutation_command(keys, mutation)])
        return parse_mutation_reply(mutation, reply)

    def run(self, method: str, amount: int | float = 0, **fields: Any) -> float:
        """Carry out a mutation that must succeed; the result in whole units."""
        outcome = self.send(self.mutation(method, amount, **fields))
        assert isinstance(outcome, MutationResult), outcome
        assert not outcome.replayed
        return outcome.value_micros / 1_000_000

    def refuse(self, method: str, amount: int | float = 0, **fields: Any) -> Exception:
        """Carry out a mutation that must be refused, and see that nothing changed; the error."""
        mutation = self.mutation(method, amount, **fields)
        before = self.state(mutation.subject)
        outcome = self.send(mutation)
        assert isinstance(outcome, Refused), outcome
        assert not outcome.replayed
        assert self.state(mutation.subject) == before
        return outcome.error

    def state(self, subject: str = "rif") -> list[Any]:
        """Everything that a refusal must leave as it is."""
        keys = account_keys(self.tenant, subject)
        return self.store.execute([("GET", keys.account), ("XLEN", keys.journal)])

    def journal(self, subject: str = "rif") -> list[dict[str, bytes]]:
        keys = account_keys(self.tenant, subject)
        [lines] = self.store.execute([("XRANGE", keys.journal, "-", "+")])
        return [line_fields(fields) for _, fields in lines]

    def tamper(self, subject: str = "rif", **figures: int) -> None:
        """Set figures of an account by another hand than the scripts'."""
        key = account_keys(self.tenant, subject).account
        [value] = self.store.execute([("GET", key)])
        self.store.execute([("SET", key, with_figures(value, **figures))])


@pytest.fixture
def accounts(store: StoreConnection) -> Accounts:
    return Accounts(store)


# --- servers that the Python clients call ---------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[RpcServer]:
    with RpcServer(amount) as running:
        yield running


@pytest.fixture
def second() -> Iterator[RpcServer]:
    with RpcServer(amount) as running:
        yield running


@pytest.fixture
def refusing() -> tuple[str, int]:
    """Nothing listens there."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address: tuple[str, int] = probe.getsockname()
    return address
