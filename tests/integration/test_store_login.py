"""Passwords that come from files: into which URLs, and to which servers they get."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import StoreUnavailable
from common.settings.config_file import ConfigError
from common.settings.options import store_with_login
from common.storage.store import StoreConnection
from common.storage.store_login import LoginError, mask_url, read_secret, with_login
from common.storage.store_url import describe_store_url
from tests.store_group import StoreGroup


@pytest.mark.parametrize(
    ("url", "complete"),
    [
        ("redis://h", "redis://:a%2F%40@h"),
        ("rediss://u@h:1/2?x=y", "rediss://u:a%2F%40@h:1/2?x=y"),
        ("unix:///run/s.sock?db=1", "unix://:a%2F%40@/run/s.sock?db=1"),
        ("redis+sentinel://u@a,b:1/s/2", "redis+sentinel://u:a%2F%40@a,b:1/s/2"),
        ("redis+cluster://[::1]:2,b", "redis+cluster://:a%2F%40@[::1]:2,b"),
    ],
)
def test_the_password_gets_into_the_url(url: str, complete: str) -> None:
    assert with_login(url, password="a/@") == complete
    assert describe_store_url(complete.replace("cluster", "sentinel")).count("a%2F") == 0


def test_the_password_of_the_sentinels_gets_into_the_url() -> None:
    url = "redis+sentinel://u@a,b/s?sentinel_user=w"
    assert with_login(url, sentinel_password="p&=") == f"{url}&sentinel_password=p%26%3D"


@pytest.mark.parametrize(
    ("url", "which", "complaint"),
    [
        ("redis://u:x@h", "password", "has a password in it already"),
        ("redis://:@h", "password", "has a password in it already"),
        ("unix:///s?password=x", "password", "has a password in it already"),
        ("embedded:/x", "password", "the embedded store has no password"),
        ("redis://h", "sentinel_password", "only a store of redis\\+sentinel:// has sentinels"),
        ("redis+sentinel://a/s?sentinel_password=x", "sentinel_password", "of the sentinels in it already"),
    ],
)
def test_a_password_that_has_no_place_is_refused(url: str, which: str, complaint: str) -> None:
    with pytest.raises(LoginError, match=complaint):
        with_login(url, **{which: "secret"})


def test_what_a_file_may_hold(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    for content, secret in (
        (b"x", "x"),
        (b"x\n", "x"),
        (b"x\r\n", "x"),
        (b" x \n", " x "),
        ("ä".encode(), "ä"),
    ):
        file.write_bytes(content)
        assert read_secret(file) == secret
    for wrong in (b"", b"\n", b"x\ny\n", b"x" * 4_097, b"\xff"):
        file.write_bytes(wrong)
        with pytest.raises(LoginError, match=str(file)):
            read_secret(file)
    file.unlink()
    with pytest.raises(LoginError, match="can't read"):
        read_secret(file)


def test_the_option_is_named_whose_password_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("x")
    with pytest.raises(ConfigError, match=r"--store-password-file: .* already"):
        store_with_login("redis://:y@h", file, None)
    with pytest.raises(ConfigError, match="--sentinel-password-file: "):
        store_with_login("redis://h", None, file)


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://u:p@h/0", "redis://u:***@h/0"),
        ("redis://:p/@:x@h", "redis://:***@h"),
        (
            "redis+sentinel://u:p@a,b/s?sentinel_password=q&x=1",
            "redis+sentinel://u:***@a,b/s?sentinel_password=***&x=1",
        ),
        ("unix:///a?PassWord=x", "unix:///a?PassWord=***"),
        ("redis://u@h", "redis://u@h"),
        ("embedded:/x", "embedded:/x"),
        ("a name: x@y", "a name: x@y"),
    ],
)
def test_passwords_are_masked(url: str, masked: str) -> None:
    assert mask_url(url) == masked


def test_the_passwords_reach_the_sentinels_and_the_primary(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("right", "wrong")}
    for name, file in files.items():
        file.write_text(f"{name}\n")
    with StoreGroup(tmp_path / "group", replicas=0, sentinels=1, password="right") as group:
        bare = group.url.replace(":right@", "").partition("?")[0]
        assert "right" not in bare
        for store_file, sentinel_file in (("right", "wrong"), ("wrong", "right"), ("right", None)):
            url = store_with_login(bare, files[store_file], files[sentinel_file] if sentinel_file else None)
            with pytest.raises(StoreUnavailable), StoreConnection(url) as store:
                store.execute([("PING",)])
        with StoreConnection(store_with_login(bare, files["right"], files["right"])) as store:
            assert store.execute([("PING",)]) == [b"PONG"]
