"""What is measured, and how: lookups in this process, everything else on real processes."""

from __future__ import annotations

import gc
import json
import os
import random
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from common.client import JSONClient
from common.storage.store import StoreConnection
from loadtests.bench.client import Load, Outcome, RpcConnection
from loadtests.bench.figures import cpu_s, quantile, rss_mib
from loadtests.bench.requests import Pool, Request, encode_rpc
from loadtests.scale.world import ANY, PLANS, TENANT, World, account_name, destinations, prefixes, rate_lines
from rater.model import ActivationPeriod, Interval, Rate, Tariff
from rater.rating.snapshot import CompiledTariff, compile_tariff
from rater.store.keys import RATERS, TARIFF_EPOCH
from tests.e2e.cluster import RATEL, Process, address

MAX_CALL_US: Final = 31 * 86_400_000_000
NUMBERS: Final = 100_000
ROUNDS: Final = 7
DIGITS: Final = 12
WARM_UP_S: Final = 0.5
POOL: Final = 20_000


# --- lookups ----------------------------------------------------------------------------------------


class Lookups(NamedTuple):
    prefixes: int
    uniform_us: float
    """Numbers of all prefixes alike: the worst for a processor's caches."""
    popular_us: float
    """Numbers as people dial them: of the ranks of prefixes, each power of ten is dialled as often."""


def lookups(count: int) -> Lookups:
    """CPU time of finding a rate in a table of so many prefixes, the least of some rounds."""
    tariff, stored = _table(count)
    gc.collect()
    return Lookups(count, _least_us(tariff, _uniform(stored)), _least_us(tariff, _popular(stored)))


def _table(count: int) -> tuple[CompiledTariff, list[str]]:
    definitions = World(count).definitions
    lists = [
        (ActivationPeriod(0, (Interval(0, 0, (), 0, 86_400, 0, 0, number, 1_000_000, 0),)),)
        for number in range(definitions)
    ]
    stored = list(prefixes(count))
    rates = tuple(Rate(0, ANY, prefix, "UTC", lists[run % definitions]) for prefix, run in stored)
    return compile_tariff(Tariff(TENANT, rates), MAX_CALL_US), [prefix for prefix, _ in stored]


def _number(prefix: str, chance: random.Random) -> str:
    return prefix + "".join(chance.choices("0123456789", k=DIGITS - len(prefix)))


def _uniform(stored: Sequence[str]) -> list[str]:
    chance = random.Random(1)
    return [_number(chance.choice(stored), chance) for _ in range(NUMBERS)]


def _popular(stored: Sequence[str]) -> list[str]:
    chance = random.Random(2)
    ranked = list(stored)
    chance.shuffle(ranked)
    return [_number(ranked[int(len(ranked) ** chance.random()) - 1], chance) for _ in range(NUMBERS)]


def _least_us(tariff: CompiledTariff, numbers: list[str]) -> float:
    find = tariff.find_rate
    least_s = float("inf")
    for _ in range(ROUNDS):
        began_s = time.process_time()
        for number in numbers:
            find("subscriber", number)
        least_s = min(least_s, time.process_time() - began_s)
    return least_s / len(numbers) * 1e6


# --- files and loads --------------------------------------------------------------------------------


def write_tariff(folder: Path, world: World) -> Path:
    folder.mkdir(parents=True)
    with (folder / "rates.json").open("w") as file:
        file.writelines(rate_lines(world))
    (folder / "destinations.json").write_text(json.dumps(destinations(world)))
    (folder / "tariff_plans.json").write_text(json.dumps(PLANS))
    return folder


class Loaded(NamedTuple):
    wall_s: float
    cpu_s: float
    peak_mib: float
    store_mb: float
    """By how much the store's memory has grown."""


def load(store: StoreConnection, url: str, *words: str) -> Loaded:
    """`ratel load`, as a process of its own."""
    before = store_bytes(store)
    began_s = time.monotonic()
    process = subprocess.Popen([*RATEL, "load", *words, "--store", url], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"ratel load ended with {process.returncode}"
    wall_s = time.monotonic() - began_s
    grown = store_bytes(store) - before
    return Loaded(wall_s, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, grown / 1e6)


def store_bytes(store: StoreConnection) -> int:
    lines = store.execute([("INFO", "memory")])[0].decode().split("\r\n")
    return int(next(line for line in lines if line.startswith("used_memory:")).partition(":")[2])


# --- raters -----------------------------------------------------------------------------------------


class Started(NamedTuple):
    ready_s: float
    """From its start to its first answer."""
    cpu_s: float
    memory_mib: float


def start_rater(url: str, call: dict[str, Any]) -> Started:
    """A rater of its own, asked directly."""
    began_s = time.monotonic()
    rater = Process("rater", "--store", url, "--jsonrpc", "127.0.0.1:0", "--deadline", "60000")
    try:
        where = rater.wait_for_line("listening").partition("jsonrpc=")[2]
        with JSONClient(address(where), timeout_s=120, attempt_timeout_s=120) as client:
            client.call("GetCost", call)
            ready_s = time.monotonic() - began_s
        return Started(ready_s, cpu_s(rater.process.pid), rss_mib(rater.process.pid))
    finally:
        rater.kill()


def peak_mib(pid: int) -> float:
    """The most that a process has had since `forget_peak`."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


# --- switches ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Latency:
    sent: int
    failed: int
    p50_ms: float
    p99_ms: float
    most_ms: float


def get_cost_pool(world: World, seed: int = 0) -> Pool:
    chance = random.Random(seed)
    stored = [prefix for prefix, _ in prefixes(min(world.prefixes, 100_000) * 2 // 3)]
    requests = [
        Request("GetCost", call(f"guest{chance.randrange(10**8)}", _number(chance.choice(stored), chance)))
        for _ in range(POOL)
    ]
    return Pool(requests, encode_rpc)


def call(subject: str, number: str) -> dict[str, str | int]:
    times = {"TimeStart": "2026-02-03T07:59:00Z", "TimeEnd": "2026-02-03T08:01:00Z"}
    return {"CstmId": TENANT, "Subject": subject, "DestinationPrefix": number} | times


def latency(where: tuple[str, int], pool: Pool, rate: float, seconds: float) -> Latency:
    """Of an open loop at that rate."""
    with Load(RpcConnection, where, 8, pool) as client:
        client.open_loop(rate, WARM_UP_S)
        return _latency(client.open_loop(rate, seconds))


def _latency(outcome: Outcome) -> Latency:
    ordered = sorted(outcome.latencies_s)
    p50_ms, p99_ms, most_ms = (quantile(ordered, share) * 1000 for share in (0.5, 0.99, 1.0))
    failed = len(outcome.failed) + len(outcome.unanswered)
    return Latency(len(ordered) + len(outcome.unanswered), failed, p50_ms, p99_ms, most_ms)


def medians(rounds: Sequence[Latency]) -> dict[str, float]:
    """Of latencies; what was sent and failed is added up."""
    return {
        "sent": sum(each.sent for each in rounds),
        "failed": sum(each.failed for each in rounds),
        "p50_ms": statistics.median(each.p50_ms for each in rounds),
        "p99_ms": statistics.median(each.p99_ms for each in rounds),
        "most_ms": max(each.most_ms for each in rounds),
    }


@contextmanager
def meanwhile(work: Callable[[], Any], after_s: float) -> Iterator[None]:
    """Does the work in a thread while the body runs, and waits for it."""
    failures: list[BaseException] = []

    def run() -> None:
        time.sleep(after_s)
        try:
            work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if failures:
        raise failures[0]


def wait_for_switch(store: StoreConnection, raters: int, within_s: float = 300.0) -> float:
    """Seconds until all raters rate by the newest epoch."""
    began_s = time.monotonic()
    while time.monotonic() - began_s < within_s:
        epoch, lines = store.execute([("GET", TARIFF_EPOCH), ("HVALS", RATERS)])
        if sum(int(line.split()[0]) >= int(epoch) for line in lines) >= raters:
            return time.monotonic() - began_s
        time.sleep(0.02)
    raise TimeoutError("the raters did not switch")


def activate(url: str, version: int) -> None:
    words = [*RATEL, "tariff", "activate", TENANT, str(version), "--store", url, "--wait", "0"]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


# --- accounts ---------------------------------------------------------------------------------------


class AccountCost(NamedTuple):
    method: str
    accounts: int
    per_s: float
    store_us: float
    """CPU time of the store for each request."""


def account_cost(
    where: tuple[str, int], store_pid: int, method: str, accounts: int, seconds: float
) -> AccountCost:
    """A closed loop of 8 × 16 on so many accounts."""
    chance = random.Random(f"{method} {accounts}")
    requests = [_account_request(method, account_name(chance.randrange(accounts))) for _ in range(POOL * 5)]
    with Load(RpcConnection, where, 8, Pool(requests, encode_rpc)) as client:
        client.closed_loop(16, WARM_UP_S)
        before_s = cpu_s(store_pid)
        outcome = client.closed_loop(16, seconds)
        used_s = cpu_s(store_pid) - before_s
    assert not outcome.failed, outcome.failures[:3]
    return AccountCost(
        method, accounts, outcome.in_time / outcome.seconds, used_s / len(outcome.latencies_s) * 1e6
    )


def _account_request(method: str, subject: str) -> Request:
    if method == "GetCost":
        return Request(method, call(subject, "49"))
    return Request(method, {"CstmId": TENANT, "Subject": subject, "DestinationPrefix": "49", "Amount": 1})
