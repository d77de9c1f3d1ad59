"""The store as deployed: by deploy/store/valkey.conf, with ACL users, over TLS with client certificates.

Everything that Ratel does works for the user that it is for, of which the store's own log of refused commands
is the witness, and nothing else does.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from common.cli import main
from common.errors import DeadlineExceeded, InsufficientSeconds, StoreUnavailable
from common.storage.store import StoreConnection
from common.storage.store_url import StoreUrlError, describe_store_url
from rater.model import Account
from rater.store.users import AUDITOR, OPERATOR, RATER, REPLICA, SENTINEL
from tests.certificates import Authority
from tests.e2e.cluster import SAMPLE_TARIFF, Cluster
from tests.integration.conftest import STORE_TIMEOUT_MS, Accounts
from tests.secured_group import REDIS, SecuredGroup, has_redis
from tests.store_group import StoreGroup, is_redis_7_0

KINDS = (
    pytest.param("ours", id="acl"),
    pytest.param(
        "redis-tls",
        id="acl-tls",
        marks=pytest.mark.skipif(not has_redis(), reason=f"no {REDIS}, which has TLS"),
    ),
)
CALL = {"CstmId": "vdf", "Subject": "rif", "DestinationPrefix": "0256"}


def secured(folder: Path, kind: str, replicas: int = 0, sentinels: int = 0) -> SecuredGroup:
    if kind == "ours":
        return SecuredGroup(folder, replicas, sentinels, redis_7_0=is_redis_7_0())
    tls = Authority(folder / "ca")
    return SecuredGroup(folder, replicas, sentinels, tls=tls, server=REDIS, redis_7_0=is_redis_7_0(REDIS))


@pytest.fixture(scope="module", params=KINDS)
def group(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredGroup]:
    with secured(tmp_path_factory.mktemp("store"), request.param) as running:
        yield running


def refused(group: SecuredGroup, name: str = "store-0") -> list[tuple[str, str, str]]:
    """What the store has refused so far: user, reason, object."""
    with StoreConnection(group.node_url(name), timeout_ms=STORE_TIMEOUT_MS) as store:
        entries = [
            dict(zip(entry[::2], entry[1::2], strict=True)) for entry in store.execute([("ACL", "LOG")])[0]
        ]
    found = [(entry[b"username"], entry[b"reason"], entry[b"object"]) for entry in entries]
    # Redis 7.0 does not know CLIENT SETINFO, which the client library tries.
    return [tuple(map(bytes.decode, one)) for one in found if one[2] != b"client"]  # type: ignore[misc]


def ratel(url: str, *words: str) -> str:
    done = CliRunner().invoke(main, list(words), env={"RATEL_STORE": url}, catch_exceptions=False)
    assert done.exit_code == 0, (words, done.output)
    return done.output


def test_everything_works_for_the_user_that_it_is_for(group: SecuredGroup, tmp_path: Path) -> None:
    operator, auditor = group.operator_url, group.url_for(AUDITOR)
    ratel(operator, "load", str(SAMPLE_TARIFF), "--tenant", "vdf", "--wait", "0")
    cluster = Cluster(tmp_path / "data", "--store", group.url, *_durability(group))
    try:
        cluster.wait_ready()
        assert cluster.store_url == describe_store_url(group.url)
        with cluster.client() as client:
            period = {"TimeStart": "2012-02-02T17:30:00Z", "TimeEnd": "2012-02-02T18:30:00Z"}
            assert client.call("GetCost", CALL | period)["Cost"] == 540
            assert client.call("GetMaxSessionTime", CALL | {"Amount": 100})
            for _ in range(2):  # a refusal is stored under its key, too
                with pytest.raises(InsufficientSeconds):
                    client.call("DebitSeconds", CALL | {"RequestId": "many", "Amount": 10_000})
            for method in ("DebitBalance", "DebitSMS", "AddVolumeDiscountSeconds"):
                key = {"RequestId": f"one-{method}", "Amount": 1}
                first = client.call(method, CALL | key)
                assert client.call(method, CALL | key) == first, "a replay"
            client.call("ResetVolumeDiscountSeconds", CALL)
            client.call("AddRecievedCallSeconds", CALL | {"Amount": 10})
            client.call("ResetUserBudget", CALL)
            for method in ("Account", "History", "Explain"):
                assert client.call(method, CALL)["Subject"] == "rif"
        ratel(operator, "load", str(SAMPLE_TARIFF), "--tenant", "vdf")
        ratel(operator, "tariff", "activate", "vdf", "1")
        ratel(operator, "account", "create", "vdf", "new", "--credit", "5")
        ratel(operator, "account", "credit", "vdf", "new", "1")
        for _ in range(2):
            ratel(operator, "account", "block", "vdf", "new", *_durability(group))
        for url in (operator, auditor):
            ratel(url, "account", "show", "vdf", "new")
            ratel(url, "account", "history", "vdf", "new")
            ratel(url, "tariff", "list", "vdf")
            ratel(url, "tariff", "diff", "vdf", "1", "2")
            ratel(url, "audit")
        ratel(auditor, "journal", "export", "--to", str(tmp_path / "copy"))
        ratel(operator, "journal", "export", "--to", str(tmp_path / "archive"), "--trim")
        ratel(operator, "audit", "--archive", str(tmp_path / "archive"))
    finally:
        cluster.stop()
    assert refused(group) == []


def _durability(group: SecuredGroup) -> tuple[str, ...]:
    return () if group.redis_7_0 else ("--durability", "always")


OWN = "ratel:{vdf:rif}:account"
FORBIDDEN: dict[str, list[tuple[str, ...]]] = {
    RATER: [
        ("FLUSHALL",),
        ("FLUSHDB",),
        ("CONFIG", "GET", "*"),
        ("CONFIG", "SET", "appendonly", "no"),
        ("KEYS", "*"),
        ("SCAN", "0"),
        ("DEBUG", "SLEEP", "0"),
        ("ACL", "LIST"),
        ("ACL", "SETUSER", RATER, "+@all"),
        ("SHUTDOWN",),
        ("REPLICAOF", "NO", "ONE"),
        ("SCRIPT", "FLUSH"),
        ("CLIENT", "KILL", "TYPE", "normal"),
        ("MODULE", "LIST"),
        ("INFO",),
        ("INFO", "server"),
        ("DEL", OWN),
        ("GET", "other"),
        ("SET", "ratel:{tariff}:account", "x"),
        ("MGET", OWN, "other"),
        ("SET", "ratel:{tariff}:epoch", "1"),
        ("HSET", "ratel:{tariff}:active", "vdf", "9"),
        ("SET", "ratel:tariff:vdf:1:0", "x"),
        ("XTRIM", "ratel:{vdf:rif}:journal", "MAXLEN", "0"),
        ("EVAL", "return redis.call('GET', 'other')", "0"),
    ],
    OPERATOR: [("FLUSHALL",), ("CONFIG", "GET", "*"), ("KEYS", "*"), ("GET", "other"), ("DEL", "other")],
    AUDITOR: [("SET", OWN, "x"), ("DEL", OWN), ("FLUSHALL",), ("EVALSHA", "0" * 40, "0"), ("GET", "other")],
    REPLICA: [("GET", OWN), ("FLUSHALL",), ("CONFIG", "GET", "*")],
    SENTINEL: [("GET", OWN), ("FLUSHALL",), ("CONFIG", "GET", "*"), ("CONFIG", "SET", "port", "1")],
}


@pytest.mark.parametrize("user", FORBIDDEN)
def test_nothing_else_is_allowed(group: SecuredGroup, user: str) -> None:
    with StoreConnection(group.url_for(user), timeout_ms=STORE_TIMEOUT_MS) as store:
        replies = store.execute(FORBIDDEN[user])
    for command, reply in zip(FORBIDDEN[user], replies, strict=True):
        expected = "ERR DEBUG command not allowed" if command[0] == "DEBUG" else "NOPERM"
        assert str(reply).startswith(expected), (command, reply)


def test_scripts_are_held_to_their_users_keys_too(group: SecuredGroup) -> None:
    """Even a script of the rater's own making, which it may load, reaches nothing that it may not."""
    text = "return redis.call(ARGV[1], ARGV[2])"
    with StoreConnection(group.url, timeout_ms=STORE_TIMEOUT_MS) as store:
        [sha] = store.execute([("SCRIPT", "LOAD", text)])
        replies = store.execute(
            [
                ("EVALSHA", sha, 0, "GET", OWN),
                ("EVALSHA", sha, 0, "GET", "other"),
                ("EVALSHA", sha, 0, "DEL", OWN),
                ("EVALSHA", sha, 1, "other", "GET", OWN),
                ("EVALSHA", sha, 0, "HGETALL", "ratel:tariff:vdf:1"),
            ]
        )
    assert [isinstance(reply, Exception) for reply in replies] == [False, True, True, True, False]


def test_who_does_not_log_in_may_do_nothing(group: SecuredGroup) -> None:
    bare = group.url.replace(f"{RATER}:{group.passwords[RATER]}@", "")
    for url in (bare, group.url.replace("secret-of", "wrong")):
        with StoreConnection(url) as store:
            try:
                said = str(store.execute([("GET", OWN)])[0])
            except StoreUnavailable as error:
                said = str(error)
        assert "Authentication required" in said or "invalid username-password" in said
        assert "wrong-" not in said


@pytest.mark.skipif(not has_redis(), reason=f"no {REDIS}, which has TLS")
def test_tls_to_the_store_checks_both_sides(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path), Authority(tmp_path, "stranger")
    with SecuredGroup(
        tmp_path / "store", tls=authority, server=REDIS, redis_7_0=is_redis_7_0(REDIS)
    ) as group:
        cert, key = group._clients
        good = group.url
        cases = {
            good.replace(str(authority.ca), str(stranger.ca)): "certificate verify failed",
            good.replace("127.0.0.1", "localhost.localdomain"): "(?i)hostname mismatch|not known|resolution",
            good.replace(
                f"&ssl_certfile={cert}&ssl_keyfile={key}", ""
            ): "(?i)certificate required|closed|EOF occurred",
            good.replace("rediss://", "redis://").partition("?")[0]: "(?i)closed|reset|protocol",
        }
        for url, says in cases.items():
            with StoreConnection(url) as store, pytest.raises(StoreUnavailable, match=says) as caught:
                store.execute([("PING",)])
            assert "secret" not in str(caught.value)
        with StoreConnection(good) as store:
            assert store.execute([("ROLE",)])[0][0] == b"master"
        for url, says in (
            (good.replace(str(authority.ca), "/nowhere"), "the CA /nowhere: No such file or directory"),
            (good.replace(str(key), str(authority.issue("x")[1])), "is not the key of the certificate"),
        ):
            with pytest.raises(StoreUrlError, match=says):
                StoreConnection(url)


def test_a_failover_works_with_acl_users_and_tls(tmp_path: Path) -> None:
    with secured(tmp_path, "redis-tls" if has_redis() else "ours", replicas=1, sentinels=3) as group:
        ratel(group.operator_url, "load", str(SAMPLE_TARIFF), "--tenant", "vdf", "--wait", "0")
        cluster = Cluster(tmp_path / "data", "--store", group.url)
        try:
            cluster.wait_ready()
            with cluster.client(timeout_s=60) as client:
                before = client.call("DebitBalance", CALL | {"Amount": 1, "RequestId": "before"})
                old = group.kill_primary().name
                new = group.wait_for_new_primary(old).name
                after = _until_done(client, CALL | {"Amount": 1, "RequestId": "after"})
                assert after == before - 1
            group.make_sentinels_patient()
            group.restart(old)
            group.wait_for_replica(old)
        finally:
            cluster.stop()
        ratel(group.operator_url, "audit")
        for name in (old, new, "sentinel-0"):
            assert refused(group, name) == []


def _until_done(client: Any, request: dict[str, Any]) -> Any:
    while True:
        try:
            return client.call("DebitBalance", request)
        except (StoreUnavailable, DeadlineExceeded):
            continue  # a client's retries with the same key


def test_the_deployed_configuration_is_what_the_server_runs(group: SecuredGroup) -> None:
    wanted = {
        "appendonly": "yes",
        "appendfsync": "always",
        "maxmemory-policy": "noeviction",
        "save": "",
        "protected-mode": "yes",
        "stream-node-max-bytes": "1024",
    }
    with StoreConnection(group.node_url("store-0"), timeout_ms=STORE_TIMEOUT_MS) as store:
        replies = store.execute([("CONFIG", "GET", name) for name in wanted])
    assert {reply[0].decode(): reply[1].decode() for reply in replies} == wanted


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_written_is_there_after_a_restart_and_at_a_replica(tmp_path: Path, kind: str) -> None:
    """Redis reads its file, and a replica its primary's changes, as the user `default`, which is off."""
    with secured(tmp_path, kind, replicas=1) as group:

        def journals() -> list[Any]:
            found = []
            for name in ("store-0", "store-1"):
                with StoreConnection(group.node_url(name), timeout_ms=STORE_TIMEOUT_MS) as one:
                    found.append(Accounts(one).journal())
                    assert refused(group, name) == []
            return found

        with StoreConnection(group.url, timeout_ms=STORE_TIMEOUT_MS) as store:
            accounts = Accounts(store)
            accounts.open(Account("rif"))
            for restarted in ("store-1", "store-0"):
                for _ in range(3):
                    accounts.run("AddVolumeDiscountSeconds", 1)
                group.wait_for_replica("store-1")
                group.restart(restarted)
                store.close()
                for _ in range(3):
                    accounts.run("AddVolumeDiscountSeconds", 1)
                group.wait_for_replica("store-1")
                primary, replica = journals()
                assert primary == replica
            assert len(primary) == 13


def test_a_group_without_users_is_another_thing(tmp_path: Path) -> None:
    """The tests would show nothing if the store refused nobody."""
    with StoreGroup(tmp_path, 0, 0) as plain, StoreConnection(plain.url) as store:
        assert store.execute([("KEYS", "*")]) == [[]]
