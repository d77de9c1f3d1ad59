"""Key files and `ratel keys`: what is written, what is refused, and that nothing is overwritten or shown."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from unittest import mock

import pytest
from click.testing import CliRunner, Result

from common.commands.keys_command import keys
from common.security.curve import (
    LOOK_AT_FILES_NS,
    MAX_AUTHORIZED,
    Authorized,
    KeyFileError,
    Role,
    new_key,
    public_text,
    read_public,
    read_secret,
    secret_text,
    write_new,
)
from tests.keyring import KeyRing


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    return KeyRing(tmp_path / "keys")


def run(folder: Path, *args: str) -> Result:
    return CliRunner().invoke(keys, [*args, "--dir", str(folder)])


def test_a_new_pair_is_two_files_of_which_one_is_secret_and_shown_nowhere(tmp_path: Path) -> None:
    old = os.umask(0)  # whatever it is: modes do not depend on it
    try:
        done = run(tmp_path / "keys", "new", "r1", "--role", "rater")
    finally:
        os.umask(old)
    assert done.exit_code == 0, done.output
    secret, public = tmp_path / "keys" / "r1.key", tmp_path / "keys" / "r1.pub"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert stat.S_IMODE(public.stat().st_mode) == 0o644
    assert stat.S_IMODE(secret.parent.stat().st_mode) == 0o755
    assert sorted(path.name for path in secret.parent.iterdir()) == ["r1.key", "r1.pub"]
    key = read_secret(secret, Role.RATER)
    assert read_public(public) == key.without_secret()
    assert key.public in done.output
    assert key.secret not in done.output + public.read_text() + repr(key)
    assert str(key) == str(secret)  # so `ratel config show` shows it


@pytest.mark.parametrize("there", ["r1.key", "r1.pub"])
def test_nothing_is_overwritten(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("mine")
    done = run(tmp_path, "new", "r1", "--role", "rater")
    assert (done.exit_code, done.output) == (1, f"Error: {tmp_path / there} exists, and is left as it is\n")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(there, "mine")]


def test_two_that_write_the_same_file_at_once_do_not_overwrite_each_other(tmp_path: Path) -> None:
    path = tmp_path / "r1.key"
    link = os.link

    def slow(draft: Path, target: Path) -> None:
        path.write_text("the other's")
        link(draft, target)

    with mock.patch("os.link", slow), pytest.raises(KeyFileError, match="exists, and is left as it is"):
        write_new(path, "ours", 0o600)
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("r1.key", "the other's")]


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    with (
        mock.patch("os.fsync", side_effect=OSError(28, "No space left on device")),
        pytest.raises(KeyFileError, match=r"can't write .*r1.key: No space left on device"),
    ):
        write_new(tmp_path / "r1.key", "text", 0o600)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", ".", "../x", "a b", "-x", "x" * 65, "a/b", "ä", 'a"', "a\n"])
def test_a_name_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    done = run(tmp_path, "new", "--role", "rater", "--", name)
    assert done.exit_code != 0
    with pytest.raises(KeyFileError, match="must be 1 to 64 letters"):
        new_key(name, Role.RATER)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o604, 0o610, 0o660])
def test_a_secret_that_others_can_reach_is_refused_except_for_roots_to_a_group(
    ring: KeyRing, mode: int
) -> None:
    ring.new("r1", Role.RATER)
    path = ring.secret_file("r1")
    path.chmod(mode)
    if mode == 0o640 and path.stat().st_uid == 0:
        assert read_secret(path, Role.RATER).name == "r1"
        return
    with pytest.raises(KeyFileError, match=rf"r1.key is open to others \(mode {mode:04o}\): chmod 600 "):
        read_secret(path, Role.RATER)


DAMAGES = [
    (lambda text: "", "has no name"),
    (lambda text: "nonsense", "is not a key file: expected lines such as"),
    (lambda text: text.replace('"rater"', '"king"'), "has the role 'king', expected one of balancer, rater"),
    (lambda text: text.replace('"rater"', "7"), "has no role"),
    (lambda text: text.replace('"rater"', '"client"'), "is the key of a client, and that of a rater is"),
    (lambda text: text.replace('name = "r1"', 'name = "../r1"'), "must be 1 to 64 letters"),
    (lambda text: text + 'more = "x"\n', "has a line that is not known: more"),
    (
        lambda text: text.replace('public-key = "', 'public-key = "x'),
        "public-key is not 40 characters of Z85",
    ),
    (lambda text: text.replace('secret-key = "', 'secret-key = "x'), "secret-key is not 40 characters"),
    (lambda text: text[: text.index("secret-key")], "has no secret-key; is it the .pub file?"),
    (lambda text: text + "#" * 5000, "it has more than 4096 bytes"),
    (lambda text: f"{text}# \udcff", "is not text"),
]


@pytest.mark.parametrize(("damage", "says"), DAMAGES, ids=[says for _, says in DAMAGES])
def test_a_damaged_secret_is_one_clear_error_that_does_not_show_it(
    ring: KeyRing, damage: object, says: str
) -> None:
    key = ring.new("r1", Role.RATER)
    path = ring.secret_file("r1")
    assert callable(damage)
    path.write_text(damage(path.read_text()), errors="surrogateescape")
    with pytest.raises(KeyFileError) as caught:
        read_secret(path, Role.RATER)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)
    assert key.secret not in str(caught.value)


def test_a_public_key_that_is_not_that_of_the_secret_is_seen(tmp_path: Path) -> None:
    one, other = (new_key(name, Role.RATER) for name in ("one", "other"))
    path = tmp_path / "one.key"
    write_new(path, secret_text(one).replace(one.public, other.public), 0o600)
    with pytest.raises(KeyFileError, match="its public-key is not that of its secret-key"):
        read_secret(path, Role.RATER)


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, says in (("pipe", "is not a file"), ("none", "No such file"), (".", "is not a file|Is a dir")):
        with pytest.raises(KeyFileError, match=says):
            read_public(tmp_path / name)


def test_keys_are_listed_with_what_they_are_for(ring: KeyRing) -> None:
    one, two = ring.new("r1", Role.RATER, allowed=True), ring.new("gw-long-name", Role.CLIENT)
    ring.secret_file("r1").unlink()
    (ring.folder / "odd.pub").write_text("odd")
    done = run(ring.folder, "list")
    assert done.exit_code == 0
    lines = done.output.splitlines()
    assert lines[0] == f"balancer  balancer      {ring.server.public}  secret-here"
    assert lines[1] == f"client    gw-long-name  {two.public}  secret-here"
    assert lines[2] == f"rater     r1            {one.public}  authorized"
    assert "passed over" in lines[3]
    assert "odd.pub is not a key file" in lines[3]


def test_allowing_and_revoking(ring: KeyRing) -> None:
    key = ring.new("r1", Role.RATER)
    assert ring.keys.read().keys == {}
    assert "rater r1 is allowed" in ring.run("allow", str(ring.folder / "r1.pub"))
    assert ring.keys.read().keys == {key.public: key.without_secret()}
    assert "was allowed before" in ring.run("allow", "r1")
    assert ring.run("revoke", "r1") == "r1 is revoked\n"
    assert ring.keys.read().keys == {}


def test_what_cant_be_allowed_or_revoked_changes_nothing(ring: KeyRing) -> None:
    ring.new("r1", Role.RATER, allowed=True)
    before = ring.keys.read()
    ring.secret_file("r1").unlink()
    (ring.folder / "r1.pub").unlink()
    ring.new("r1", Role.RATER)
    ring.new("gw", Role.CLIENT)
    (ring.folder / "gw2.pub").write_text((ring.authorized / "r1.pub").read_text().replace("r1", "gw2"))
    for args, says in (
        (("allow", "r1"), "another key of the name r1 is authorized"),
        (("allow", "gw2"), "this key is authorized as rater r1: revoke that first"),
        (("allow", "balancer"), "balancer is the key of a balancer"),
        (("allow", "gw", "nobody"), "can't read"),
        (("allow", str(ring.secret_file("gw"))), "holds a secret key: only the .pub file is for others"),
        (("revoke", "gw"), "gw is not authorized"),
        (("revoke", "r1", "gw"), "gw is not authorized"),
        (("revoke", "../r1"), "is not authorized"),
    ):
        done = run(ring.folder, *args)
        assert done.exit_code == 1, args
        assert says in done.output
        assert len(done.output.splitlines()) == 1
        assert ring.keys.read() == before


def test_a_key_that_stands_there_twice_counts_for_neither(ring: KeyRing) -> None:
    key = ring.new("r1", Role.RATER, allowed=True)
    text = public_text(key).replace('"rater"', '"client"').replace('"r1"', '"r0"')
    write_new(ring.authorized / "r0.pub", text, 0o644)
    found = ring.keys.read()
    assert found.keys == {}
    assert len(found.errors) == 1
    assert "r1.pub holds the same key as r0.pub" in found.errors[0]


def test_a_folder_with_more_keys_than_are_looked_at_is_not_relied_on(ring: KeyRing) -> None:
    for number in range(MAX_AUTHORIZED + 1):
        (ring.authorized / f"{number}.pub").touch()
    with pytest.raises(KeyFileError, match="holds more than 1000 keys"):
        ring.keys.read()


def test_a_folder_that_has_not_changed_is_left_alone_for_a_while(ring: KeyRing) -> None:
    ring.new("r1", Role.RATER, allowed=True)
    os.utime(ring.authorized, ns=(0, 0))  # else two changes might have come in one moment
    folder = ring.keys
    first = folder.read()
    path = ring.authorized / "r1.pub"
    with mock.patch("os.listdir", side_effect=AssertionError):
        assert folder.read() == first
        path.write_text("changed in its place")
        assert folder.read() == first
    later_ns = time.time_ns() + LOOK_AT_FILES_NS
    with mock.patch("time.time_ns", return_value=later_ns):
        assert folder.read().keys == {}
    ring.revoke("r1")
    assert folder.read() == Authorized({}, [])


def test_changes_that_come_in_one_moment_are_all_seen(ring: KeyRing) -> None:
    folder = ring.keys
    for number in range(5):
        key = ring.new(f"r{number}", Role.RATER, allowed=True)
        assert key.public in folder.read().keys
        ring.revoke(f"r{number}")
        assert folder.read().keys == {}


def test_files_that_have_not_changed_are_not_read_again(ring: KeyRing) -> None:
    ring.new("r1", Role.RATER, allowed=True)
    folder = ring.keys
    first = folder.read()
    with mock.patch("common.security.curve.read_public", side_effect=AssertionError):
        assert folder.read() == first
    (ring.authorized / "r1.pub").write_text("x")
    assert folder.read().keys == {}
