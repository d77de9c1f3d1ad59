"""The table of the store's users: held to the code that sends commands; the files in deploy/store, to it."""

from __future__ import annotations

import ast
import hashlib
import re
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner

from rater.store.acl_command import acl
from rater.store.users import (
    AUDITOR,
    OPERATOR,
    RATER,
    REPLICA,
    SENTINEL,
    SENTINEL_USERS,
    SINCE_7_2,
    STORE_USERS,
    acl_file,
)

ROOT = Path(__file__).resolve().parents[2]
DEPLOYED = ROOT / "deploy" / "store"

CONTAINERS = ("SCRIPT", "CLIENT", "CLUSTER", "CONFIG", "ACL", "SENTINEL", "INFO")
"""Commands whose second word is part of the name, and one of which only a section may be asked."""

BY_THE_LIBRARY = {"select", "client|setinfo"}
"""What redis-py sends when it makes a connection."""

NO_COMMANDS = {"ASK", "CLUSTERDOWN", "ERR", "LOADING", "MOVED", "PING", "SMS", "TOR"}
"""Words in capitals at the beginning of tuples that are none; nobody sends a PING by itself."""


def sent_by_python() -> set[str]:
    """First words of tuples in capitals: that is how commands are written in the code."""
    found: set[str] = set()
    for path in [*(ROOT / "rater").rglob("*.py"), *(ROOT / "common").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Tuple) and node.elts:
                words = [_text(element) for element in node.elts[:2]]
                first, second = words[0], words[1] if len(words) > 1 else ""
                if re.fullmatch(r"[A-Z]{3,}", first) and first not in NO_COMMANDS:
                    found.add((f"{first}|{second}" if first in CONTAINERS else first).lower())
    return found


def _text(node: ast.expr) -> str:
    value = node.value if isinstance(node, ast.Constant) else ""
    return value.decode() if isinstance(value, bytes) else value if isinstance(value, str) else ""


def sent_by_scripts() -> set[str]:
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "rater" / "lua").glob("*.lua"))
    return {name.lower() for name in re.findall(r"\b(?:call|try)\(\s*'(\w+)'", text)}


def test_each_command_that_the_code_sends_is_in_the_table_and_each_one_there_is_sent() -> None:
    sent = sent_by_python() | sent_by_scripts() | BY_THE_LIBRARY
    allowed = {name for user in STORE_USERS if user.name in (RATER, OPERATOR) for name in user.commands}
    allowed |= {name for user in SENTINEL_USERS if user.name == RATER for name in user.commands}
    assert sent == allowed


def test_the_auditor_may_do_nothing_that_the_operator_may_not_and_write_nothing() -> None:
    by_name = {user.name: user for user in STORE_USERS}
    auditor = by_name[AUDITOR]
    assert set(auditor.commands) < set(by_name[OPERATOR].commands)
    assert auditor.keys == ("%R~ratel:*",)
    writes = {"set", "setrange", "del", "hset", "hdel", "incr", "xadd", "xtrim", "pexpire", "eval", "evalsha"}
    assert not writes & set(auditor.commands)


@pytest.mark.parametrize(
    ("file", "options"),
    [("users.acl", ()), ("sentinel-users.acl", ("--sentinel",))],
    ids=["stores", "sentinels"],
)
def test_the_deployed_files_are_what_the_command_prints_and_let_nobody_in(
    file: str, options: tuple[str, ...]
) -> None:
    printed = CliRunner().invoke(acl, options)
    assert printed.exit_code == 0
    assert (DEPLOYED / file).read_text() == printed.stdout
    default, *others = printed.stdout.splitlines()
    assert all(line.split()[2] == "off" for line in others)
    assert default == "user default off resetpass allkeys allchannels +@all", "or Redis loses what it has"
    assert "nopass" not in printed.stdout


def test_redis_7_0_is_told_only_what_it_knows() -> None:
    assert all(f"+{name}" in acl_file(STORE_USERS, {}) for name in SINCE_7_2)
    assert not any(f"+{name}" in acl_file(STORE_USERS, {}, redis_7_0=True) for name in SINCE_7_2)


def test_passwords_are_made_once_and_only_their_hashes_are_printed(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    arguments = ["--passwords", str(folder), "--create"]
    first, second = (CliRunner().invoke(acl, arguments) for _ in range(2))
    assert first.exit_code == second.exit_code == 0
    assert first.stdout == second.stdout
    names = {user.name for user in STORE_USERS}
    assert {file.name.removesuffix(".password") for file in folder.iterdir()} == names
    for name in names:
        file = folder / f"{name}.password"
        password = file.read_text().strip()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert len(password) >= 43
        assert password not in first.stdout
        assert f"user {name} on #{hashlib.sha256(password.encode()).hexdigest()} " in first.stdout
    (folder / f"{REPLICA}.password").unlink()
    (folder / f"{SENTINEL}.password").write_text("two\nlines\n")
    wrong = CliRunner().invoke(acl, arguments[:-1])
    assert wrong.exit_code == 1
    assert wrong.stderr.startswith(f"Error: {folder}/{SENTINEL}.password has to hold one line")
    assert CliRunner().invoke(acl, ["--create"]).exit_code == 2
