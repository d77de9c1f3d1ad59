"""What is measured: a cluster with tariff and accounts, and a balancer with a rater that only echoes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common.process.child import die_with_parent
from common.storage.store import Command, StoreConnection
from loadtests.bench.figures import CLIENT
from loadtests.bench.parts import Address, start
from loadtests.bench.plan import Parts
from loadtests.bench.requests import BALANCE, DEBITS, subject
from loadtests.bench.tariff import TENANT, World
from rater.accounts.mutations import parse_account, read_command
from rater.accounts.opening import open_command, parse_open_reply
from rater.model import Account, Bucket
from rater.store.keys import account_keys
from rater.store.scripts import execute
from tests.integration.balancer_process import BalancerProcess

_BATCH: Final = 1000
_UNIT: Final = 1_000_000
_STORE_TIMEOUT_MS: Final = 60_000


@dataclass(frozen=True, slots=True)
class Target:
    """Addresses by wire, and the processes that serve them by name, with this one as the client."""

    addresses: dict[str, Address]
    pids: dict[str, int]


class Site:
    """Everything that is measured. `stack` ends it."""

    def __init__(self, stack: ExitStack, world: World, parts: Parts, durability: str) -> None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ratel-bench-")))
        self._world = world
        started = start(stack, folder, world, parts, durability)
        self.target = Target(started.addresses, started.pids | {CLIENT: os.getpid()})
        self.store_alone = Target({}, {name: self.target.pids[name] for name in ("store", CLIENT)})
        self.echo = _start_echo(stack)
        self.store = stack.enter_context(StoreConnection(started.store_url, timeout_ms=_STORE_TIMEOUT_MS))
        open_accounts(self.store, world)

    def taken(self) -> Counter[str]:
        """What all accounts have less than in the beginning, by the method that takes it."""
        taken: Counter[str] = Counter()
        for numbers in _batches(self._world.accounts):
            names = [subject(number) for number in numbers]
            [values] = self.store.execute(
                [read_command([account_keys(TENANT, name).account for name in names])]
            )
            for name, value in zip(names, values, strict=True):
                account = parse_account(name, value)
                assert account is not None, f"{name} is gone"
                left = account.credit_micros, account.sms_micros, account.buckets[0].seconds_us
                for method, micros in zip(DEBITS, left, strict=True):
                    taken[method] += BALANCE - micros // _UNIT
        return taken


def open_accounts(store: StoreConnection, world: World) -> None:
    for numbers in _batches(world.accounts):
        for reply in execute(store, [_opening(subject(number)) for number in numbers]):
            parse_open_reply(reply)


def _batches(count: int) -> Iterator[range]:
    for begin in range(0, count, _BATCH):
        yield range(begin, min(begin + _BATCH, count))


def _opening(name: str) -> Command:
    micros = BALANCE * _UNIT
    bucket = Bucket("on-net", micros, 10, 0)
    account = Account(name, micros, micros, 0, 0, 0, 0, "", False, None, (bucket,))
    return open_command(account_keys(TENANT, name), account)


def _start_echo(stack: ExitStack) -> Target:
    """A balancer whose rater does nothing but answer: what is left is gateway, ZeroMQ and framing."""
    balancer = stack.enter_context(BalancerProcess())
    rater = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.fake_rater", str(balancer.router_port)],
        preexec_fn=die_with_parent,
    )
    stack.callback(_end, rater)
    return Target(
        {"rpc": ("127.0.0.1", balancer.jsonrpc_port), "http": ("127.0.0.1", balancer.http_port)},
        {"balancer": balancer.process.pid, "rater 1": rater.pid, CLIENT: os.getpid()},
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def disagreement(taken: Counter[str], done: Counter[str], uncertain: Counter[str]) -> Sequence[str]:
    """Where the balances do not agree with what was acknowledged. Pure."""
    return [
        f"{method}: {done[method]} were acknowledged and {uncertain[method]} are uncertain, "
        f"but the balances say {taken[method]}"
        for method in DEBITS
        if not done[method] <= taken[method] <= done[method] + uncertain[method]
    ]
