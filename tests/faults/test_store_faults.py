"""A store that dies, is out of reach, full or read-only: no change is half done, lost, doubled or made up."""

from __future__ import annotations

import re
import resource
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from common.errors import InternalError, StoreUnavailable
from common.storage.disk_sync import DiskSync
from common.storage.embedded_store import Fsync
from common.storage.store import Command, StoreConnection
from rater.store.keys import account_keys
from tests.faults.load import Load
from tests.faults.nodes import TENANT, Site, wait_until
from tests.faults.proxy import Proxy

ACCOUNTS = {"one": 1_000_000, "two": 1_000_000, "three": 1_000_000}
PROMISE_S = 4.0
AWAY_S = 3.0
WAITED = ("deadline_exceeded", "overloaded", "store_unavailable")
"""What may be said to requests that the time ran out for while the store was away."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path / "site", raters=2) as site:
        site.start(ACCOUNTS)
        yield site


@pytest.fixture
def store(site: Site) -> Iterator[StoreConnection]:
    assert site.store is not None
    with site.store.connect() as store:
        yield store


def ok(store: StoreConnection, *commands: Command) -> None:
    assert store.execute(commands) == [b"OK"] * len(commands)


def pass_time(seconds: float) -> None:
    began_s = time.monotonic()
    wait_until(lambda: time.monotonic() - began_s >= seconds, "time passes")


def debit(key: str, subject: str = "one") -> dict[str, str | int]:
    return {"CstmId": TENANT, "Subject": subject, "Amount": 7, "RequestId": key}


# --- killed and out of reach --------------------------------------------------------------------------


@pytest.mark.parametrize("fsync", ["no", "always"])
def test_a_store_killed_and_started_again(tmp_path: Path, fsync: Fsync) -> None:
    with Site(tmp_path / "site", raters=2, fsync=fsync) as site:
        site.start(ACCOUNTS)
        assert site.store is not None
        sync = DiskSync(site.store.data_dir)  # as `ratel up` does for "no"; it does no harm to the other
        sync.start()
        with Load(lambda _: site.client(), ACCOUNTS) as load:
            for _ in range(3):
                load.wait(200)
                load.start_measuring()
                site.store.kill()
                site.store.start()
                load.wait(100)
                load.recovered(f"store killed and started again, fsync {fsync}", PROMISE_S)
        sync.stop()
        load.check(site)


@pytest.mark.parametrize("fault", ["refuses", "swallows", "hangs"])
def test_a_store_out_of_reach_for_seconds(tmp_path: Path, fault: str) -> None:
    site = Site(tmp_path / "site", raters=0)
    assert site.store is not None
    with site, Proxy(site.store.socket) as proxy:
        url = f"redis://{proxy.address}"
        site.raters += [site.rater(f"rater-{number}", store_url=url) for number in range(2)]
        site.start(ACCOUNTS)
        begin, end = {
            "refuses": (proxy.refuse, proxy.heal),
            "swallows": (proxy.cut, proxy.heal),
            "hangs": (site.store.pause, site.store.resume),
        }[fault]
        with Load(lambda _: site.client(), ACCOUNTS) as load:
            load.wait(100)
            load.start_measuring()
            began_s = time.monotonic()
            begin()
            pass_time(AWAY_S)
            end()
            lasted_s = time.monotonic() - began_s
            load.wait(100)
            load.recovered(f"store {fault} for {AWAY_S:g} s", PROMISE_S, lasted_s=lasted_s)
            site.wait_ready()
        load.check(site, *WAITED)


def test_a_store_that_forgets_its_scripts_again_and_again(site: Site, store: StoreConnection) -> None:
    with Load(lambda _: site.client(), ACCOUNTS) as load:
        load.wait(100)
        load.start_measuring()
        for _ in range(100):
            ok(store, ("SCRIPT", "FLUSH"))
            load.wait(10)
        load.recovered("script cache flushed 100 times", PROMISE_S)
    load.check(site)


# --- takes no writes ----------------------------------------------------------------------------------

FULL: list[Command] = [("CONFIG", "SET", "maxmemory", "1")]
NOT_FULL: list[Command] = [("CONFIG", "SET", "maxmemory", "0")]
SHORT_OF_REPLICAS: list[Command] = [("CONFIG", "SET", "min-replicas-to-write", "1")]
ENOUGH_REPLICAS: list[Command] = [("CONFIG", "SET", "min-replicas-to-write", "0")]


@pytest.mark.parametrize(
    ("name", "begin", "end"),
    [
        ("out of memory", FULL, NOT_FULL),
        ("short of replicas", SHORT_OF_REPLICAS, ENOUGH_REPLICAS),
    ],
)
def test_a_store_that_refuses_writes(
    site: Site, store: StoreConnection, name: str, begin: Sequence[Command], end: Sequence[Command]
) -> None:
    with Load(lambda _: site.client(), ACCOUNTS) as load, site.client() as client:
        load.wait(100)
        load.start_measuring()
        began_s = time.monotonic()
        ok(store, *begin)
        load.ledger.intend("refused", "one", 7)
        with pytest.raises(StoreUnavailable):
            client.call("DebitBalance", debit("refused"))
        wait_until(lambda: load.errors["store_unavailable"] > 50, "the others are told so, too")
        done = load.done
        wait_until(lambda: load.errors["store_unavailable"] > 100, "the others are told so again")
        assert load.done == done
        assert client.call("GetMaxSessionTime", debit("read") | {"DestinationPrefix": "0256"}) == 7
        ok(store, *end)
        lasted_s = time.monotonic() - began_s
        load.wait(100)
        load.recovered(f"store {name}", PROMISE_S, lasted_s=lasted_s)
        load.ledger.acknowledge("refused", client.call("DebitBalance", debit("refused")))
    load.check(site, "store_unavailable")


def test_a_store_that_is_read_only_for_seconds(site: Site, store: StoreConnection) -> None:
    with Load(lambda _: site.client(), ACCOUNTS) as load:
        load.wait(100)
        load.start_measuring()
        began_s = time.monotonic()
        ok(store, ("REPLICAOF", "127.0.0.1", "1"))  # where nobody listens
        pass_time(AWAY_S)
        ok(store, ("REPLICAOF", "NO", "ONE"))
        lasted_s = time.monotonic() - began_s
        load.wait(100)
        load.recovered(f"store read-only for {AWAY_S:g} s", PROMISE_S, lasted_s=lasted_s)
        site.wait_ready()
    load.check(site, *WAITED)


@pytest.mark.parametrize("fsync", ["no", "always"])
def test_a_full_disk_never_makes_a_success_untrue(tmp_path: Path, fsync: Fsync) -> None:
    """The limit of file sizes stands for the disk: a write fails in the same way, after a part of it.

    With "no" the store goes on in memory and refuses changes until it could write again; with "always"
    it ends itself before it answers.
    """
    with Site(tmp_path / "site", raters=2, fsync=fsync) as site:
        site.start(ACCOUNTS)
        assert site.store is not None
        with Load(lambda _: site.client(), ACCOUNTS) as load:
            load.wait(100)
            load.start_measuring()
            began_s = time.monotonic()
            size_bytes = max(path.stat().st_size for path in site.store.data_dir.glob("appendonlydir/*"))
            _, hard = resource.prlimit(site.store.pid, resource.RLIMIT_FSIZE)
            limits = (size_bytes + 10_000, hard)
            resource.prlimit(site.store.pid, resource.RLIMIT_FSIZE, limits)
            if fsync == "always":
                assert site.store.wait() == 1
                lasted_s = time.monotonic() - began_s
                site.store.start()
            else:
                wait_until(lambda: load.errors["store_unavailable"] > 50, "clients are told so")
                lasted_s = time.monotonic() - began_s
                resource.prlimit(site.store.pid, resource.RLIMIT_FSIZE, (hard, hard))
            load.wait(100)
            load.recovered(f"disk full, fsync {fsync}", PROMISE_S, lasted_s=lasted_s)
            # What was acknowledged while it was full is in the file as well.
            site.store.kill()
            site.store.start()
            load.wait(100)
        load.check(site, *WAITED)


# --- one account is damaged ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        "account",
        "value",
        "journal",
        "token",
        "cut off",
    ],
)
def test_a_damaged_account_fails_alone_and_unchanged(site: Site, store: StoreConnection, damage: str) -> None:
    site.load({"bad": 100})
    keys = account_keys(TENANT, "bad")
    commands: dict[str, list[Command]] = {
        "account": [("DEL", keys.account), ("HSET", keys.account, "not", "a string")],
        "value": [("SET", keys.account, "not an account")],
        "journal": [("SET", keys.journal, "not a stream")],
        "token": [("HSET", keys.token_prefix + b"c:bad", "not", "a string")],
        "cut off": [("SET", keys.account, b"RATELac1" + bytes(63))],
    }
    store.execute(commands[damage])
    before = store.execute([("DUMP", keys.account)])
    with Load(lambda _: site.client(), ACCOUNTS) as load, site.client() as client:
        for _ in range(20):
            with pytest.raises(InternalError, match=re.escape("the store refused a command")):
                client.call("DebitBalance", debit("bad", "bad"))
            load.wait(10)
        assert store.execute([("DUMP", keys.account)]) == before
    load.check(site)
