"""`ratel apikey` and the file that it writes: what is printed, what is kept, and what is refused whole."""

from __future__ import annotations

import json
import logging
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from common.commands.apikey_command import apikey
from common.errors import Unauthorized
from common.security import key_file
from common.security.api_keys import BadKeyFile, KeyFile, Limits, decode_keys, hash_key
from common.security.key_file import WatchedKeyring, change_keys, read_keys


class Command:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, *args: str) -> Result:
        return CliRunner().invoke(apikey, [args[0], "--api-keys", str(self.path), *args[1:]])

    def json(self, *args: str) -> Any:
        result = self(*args, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def create(self, *args: str) -> str:
        result = self("create", "--name", "switch", "--tenant", "vdf", "--allow", "read", *args)
        assert result.exit_code == 0, result.output
        return result.stdout.strip()


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path / "keys.json")


def test_a_key_is_printed_once_and_only_its_hash_is_kept(command: Command) -> None:
    key = command.create()
    text = command.path.read_text()
    assert hash_key(key) in text
    secret = key.rpartition("_")[2]
    for shown in (
        text,
        command("list").output,
        command("list", "--json").output,
        command("revoke", key[6:16]).output,
    ):
        assert secret not in shown
        assert hash_key(key) not in shown or shown is text
    assert stat.S_IMODE(command.path.stat().st_mode) == 0o600
    assert [path.name for path in command.path.parent.iterdir()] == ["keys.json"]


def test_json_says_the_same(command: Command) -> None:
    args = ("--name", "ops", "--all-tenants", "--allow", "operator", "--allow", "GetCost", "--expires", "90d")
    made = command.json("create", *args, "--rate", "5", "--in-flight", "3")
    [record] = command.json("list")["keys"]
    assert made.pop("key").startswith(f"ratel_{record['id']}_")
    assert made == record
    assert record["tenants"] == ["*"]
    assert record["methods"] == [
        "GetCost",
        "ResetVolumeDiscountSeconds",
        "ResetUserBudget",
        "Account",
        "History",
        "SetTerms",
    ]
    assert record["limits"] == {"rate": 5.0, "in_flight": 3}
    assert record["state"] == "valid"
    assert command.json("limit", "vdf", "--rate", "2", "--burst", "4")["limits"] == {"rate": 2.0, "burst": 4}
    assert command.json("list")["limits"] == {"vdf": {"rate": 2.0, "burst": 4}}
    assert command.json("limit", "vdf") == {"tenant": "vdf", "limits": None}
    assert command.json("list")["limits"] == {}
    assert command.json("revoke", record["id"]) == {"revoked": [record["id"]]}
    [revoked] = command.json("list")["keys"]
    assert revoked["state"] == "revoked"
    assert command.json("purge") == {"purged": [record["id"]]}
    assert command.json("list")["keys"] == []


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("create", "--name", "x", "--allow", "read"), "give --tenant for each tenant"),
        (("create", "--name", "x", "--tenant", "a", "--all-tenants", "--allow", "read"), "or --all-tenants"),
        (("create", "--name", "x", "--tenant", "*", "--allow", "read"), "every tenant is --all-tenants"),
        (("create", "--name", "x", "--tenant", "a"), "Missing option '--allow'"),
        (("create", "--name", "x", "--tenant", "a", "--allow", "write"), "there is no 'write'; known are"),
        (("create", "--name", "", "--tenant", "a", "--allow", "read"), "name: expected 1 to 100"),
        (
            (
                "create",
                "--name",
                "x",
                "--tenant",
                "a",
                "--allow",
                "read",
                "--expires",
                "2020-01-01T00:00:00Z",
            ),
            "is past",
        ),
        (
            ("create", "--name", "x", "--tenant", "a", "--allow", "read", "--expires", "90"),
            "a span such as 90d",
        ),
        (
            ("create", "--name", "x", "--tenant", "a", "--allow", "read", "--rate", "0"),
            "rate: expected a number",
        ),
        (
            ("create", "--name", "x", "--tenant", "a", "--allow", "read", "--burst", "5"),
            "burst: goes with a rate",
        ),
        (("limit", "a", "--rate", "nan"), "rate: expected a number"),
        (("limit", "", "--rate", "1"), "1 to 256 characters"),
        (("revoke",), "Missing argument"),
        (("revoke", "0123456789"), "no key with the id '0123456789'; nothing was revoked"),
        (("revoke", "ratel_0123456789_" + "0" * 64), "give its id, the ten digits after ratel_"),
    ],
)
def test_what_is_wrong_is_named_and_changes_nothing(
    command: Command, args: tuple[str, ...], text: str
) -> None:
    command.create()
    before = command.path.read_bytes()
    result = command(*args)
    assert result.exit_code in (1, 2)
    assert text in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert command.path.read_bytes() == before


def test_one_wrong_id_revokes_none(command: Command) -> None:
    key = command.create()
    assert command("revoke", key[6:16], "0000000000").exit_code == 1
    assert command.json("list")["keys"][0]["state"] == "valid"


def test_a_file_that_is_not_right_is_never_written_over(command: Command) -> None:
    command.path.write_text('{"version":1,"keys":7}')
    command.path.chmod(0o600)
    result = command("create", "--name", "x", "--tenant", "a", "--allow", "read")
    assert result.exit_code == 1
    assert "Expected `array`, got `int`" in result.output
    assert command.path.read_text() == '{"version":1,"keys":7}'


def test_owner_mode_and_link_of_the_file_stay(command: Command, tmp_path: Path) -> None:
    real = tmp_path / "real.json"
    real.touch(0o640)
    real.chmod(0o640)
    command.path.symlink_to(real)
    command.create()
    assert command.path.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert len(decode_keys(real.read_bytes()).keys) == 1


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    command.create()
    before = command.path.read_bytes()

    def full(_fd: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(key_file.os, "fsync", full)
    result = command("create", "--name", "x", "--tenant", "a", "--allow", "read")
    assert (result.exit_code, "No space left" in result.output) == (1, True)
    assert command.path.read_bytes() == before
    assert [path.name for path in command.path.parent.iterdir()] == ["keys.json"]


def test_commands_at_the_same_time_wait_for_each_other(command: Command) -> None:
    threads = [threading.Thread(target=_add, args=(command.path, f"t{n}")) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(read_keys(command.path)[0].limits) == sorted(f"t{n}" for n in range(16))


def _add(path: Path, tenant: str) -> None:
    with change_keys(path) as held:
        held[0] = KeyFile(limits=held[0].limits | {tenant: Limits(rate=1)})


def test_a_file_of_somebody_else_is_refused(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    command.create()
    owner = command.path.stat().st_uid
    monkeypatch.setattr(key_file.os, "geteuid", lambda: owner + 1)
    if owner == 0:
        read_keys(command.path)  # root's are everybody's
        os.chown(command.path, 12345, -1)
    with pytest.raises(BadKeyFile, match="it belongs to user"):
        read_keys(command.path)


def test_a_watched_file_is_taken_when_it_changes_and_trouble_is_said_once(
    command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    key = command.create()
    with caplog.at_level(logging.INFO):
        watched = WatchedKeyring(command.path)
        command("revoke", key[6:16])
        for spoil in (lambda: None, lambda: command.path.chmod(0o666), command.path.unlink):
            spoil()
            for _ in range(3):
                watched.look()
    said = [record.getMessage() for record in caplog.records]
    assert [line.split(" file=")[0] for line in said[:2]] == ["api keys=1", "api keys=0"]
    assert len(said) == 4
    assert all(line.startswith("API keys not taken, the ones before stay valid: ") for line in said[2:])
    assert "No such file" in said[3]


def test_a_defect_in_taking_a_file_does_not_end_the_looking(
    command: Command, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = command.create()
    watched = WatchedKeyring(command.path)
    command("revoke", key[6:16])
    with monkeypatch.context() as broken:
        broken.setattr(watched.keyring, "replace", None)
        watched.look()
    assert "a defect in taking the API keys" in caplog.text
    command("purge")
    watched.look()
    with pytest.raises(Unauthorized, match="not known"):
        watched.keyring.verify(key, 0.0)


@pytest.mark.parametrize(
    ("args", "option"),
    [
        (("rater", "--jsonrpc", "0.0.0.0:0"), "--jsonrpc"),
        (("up", "--http", "0.0.0.0:0"), "--http"),
        (("up", "--jsonrpc", "[::]:0"), "--jsonrpc"),
        (("gateway", "--jsonrpc", "127.0.0.1:0", "--http", "0.0.0.0:0"), "--http"),
    ],
)
def test_nothing_listens_for_everybody_without_keys(
    args: tuple[str, ...], option: str, tmp_path: Path
) -> None:
    data = ("--data", str(tmp_path / "data")) if args[0] == "up" else ()
    done = subprocess.run(
        [sys.executable, "-m", "common.cli", *args, *data],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert f"({option}): others than this host reach it" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "data").exists()


def test_a_key_file_that_cant_be_trusted_stops_every_front(command: Command) -> None:
    command.create()
    command.path.chmod(0o644)
    for args in (("rater", "--jsonrpc", "127.0.0.1:0"), ("up",), ("gateway", "--http", "none")):
        done = subprocess.run(
            [sys.executable, "-m", "common.cli", *args, "--api-keys", str(command.path)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 1
        assert "others may read it, or its group write it (mode 0644)" in done.stderr.splitlines()[-1]
