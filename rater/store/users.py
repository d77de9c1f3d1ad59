"""The store's users, and what each may run on which keys: the one table that ACL files are made of.

    ratel-rater      raters: accounts and their journals, tariffs only to read
    ratel-operator   ratel load, tariff, account, audit, journal: all keys of Ratel's
    ratel-auditor    what of these only reads
    ratel-replica    replicas, at their primary
    ratel-sentinel   sentinels, at the stores and at each other

The user `default` is off: who does not log in may do nothing (`_DEFAULT`). A script may run no command and
touch no key that its user may not, so the scripts' own commands are among those of whoever runs them. A test
holds the table to the code: each command that is sent is in it, and each one in it is sent.

What the store tells apart are key patterns, in which braces stand for themselves. An account's keys hold
`{TENANT:SUBJECT}` (`rater.store.keys`), so no tenant's name makes one of them match the tariffs' patterns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

RATER: Final = "ratel-rater"
OPERATOR: Final = "ratel-operator"
AUDITOR: Final = "ratel-auditor"
REPLICA: Final = "ratel-replica"
SENTINEL: Final = "ratel-sentinel"

SINCE_7_2: Final = frozenset({"waitaof", "client|setinfo"})
"""Redis 7.0 does not know these commands, and does not start with a file that names them."""


@dataclass(frozen=True, slots=True)
class User:
    name: str
    commands: tuple[str, ...]
    keys: tuple[str, ...] = ()
    """As ACL files have them: `~PATTERN` to read and write, `%R~PATTERN` to read."""
    channels: tuple[str, ...] = ()


_CONNECT: Final = ("client|setinfo", "select", "role", "time")
"""What each connection may begin with, and the clock."""

_CLUSTER: Final = ("asking", "cluster|info", "cluster|slots")
"""To find the nodes of a cluster that serve a key, also while it moves."""

_SCRIPTS: Final = ("evalsha", "script|load", "get", "set", "setrange", "pexpire", "xadd")
"""To run the scripts of accounts, with what they run."""

_ACCOUNTS: Final = ("~ratel:{*:*}:account", "~ratel:{*:*}:journal", "~ratel:{*:*}:token:*")

_HELLO: Final = ("&__sentinel__:hello",)

STORE_USERS: Final = (
    User(
        RATER,
        (
            *_CONNECT,
            *_CLUSTER,
            *_SCRIPTS,
            "mget",
            "hgetall",
            "hset",
            "hdel",
            "wait",
            "waitaof",
            "xrevrange",
            "info|memory",
        ),
        (*_ACCOUNTS, "~ratel:raters", "%R~ratel:tariff:*", "%R~ratel:{tariff}:*"),
    ),
    User(
        OPERATOR,
        (
            *(*_CONNECT, *_CLUSTER, "cluster|nodes", *_SCRIPTS),
            *("wait", "waitaof", "eval", "multi", "exec", "scan", "dbsize", "del", "exists", "incr"),
            *("hget", "hgetall", "hset", "hdel", "xrange", "xrevrange", "xtrim"),
        ),
        ("~ratel:*",),
    ),
    User(
        AUDITOR,
        (
            *(*_CONNECT, *_CLUSTER, "cluster|nodes", "multi", "exec", "scan", "dbsize"),
            *("get", "exists", "hget", "hgetall", "xrange", "xrevrange"),
        ),
        ("%R~ratel:*",),
    ),
    User(REPLICA, ("psync", "replconf", "ping")),
    User(
        SENTINEL,
        (
            *("multi", "exec", "slaveof", "ping", "info", "role", "publish", "subscribe"),
            *("config|rewrite", "client|setname", "client|kill", "script|kill"),
        ),
        channels=_HELLO,
    ),
)
"""On stores. The last two run what the servers' own documentation says that replicas and sentinels need."""

_ASK: Final = ("client|setinfo", "sentinel|get-master-addr-by-name")

SENTINEL_USERS: Final = (
    User(RATER, _ASK),
    User(OPERATOR, (*_ASK, "sentinel|failover")),
    User(AUDITOR, _ASK),
    User(SENTINEL, ("ping", "publish", "client|setname", "sentinel|is-master-down-by-addr"), channels=_HELLO),
)
"""On the sentinels themselves. An operator has another store take over before one is restarted."""


_DEFAULT: Final = "user default off resetpass allkeys allchannels +@all"
"""Nobody can log in as this user. But Redis reads its append-only file as this one, and a replica carries out
its primary's changes: with fewer rights, such as those of a bare `user default off`, both drop changes in
silence, and a restarted store has lost its accounts. (Valkey 9 does not depend on it.)"""


def acl_file(users: tuple[User, ...], passwords: Mapping[str, str], *, redis_7_0: bool = False) -> str:
    """The text of an ACL file. Users without a password are off. Passwords stand in it as SHA-256, which is
    safe as long as they are random: they are made by `ratel acl --create`."""
    lines = [_DEFAULT]
    for user in users:
        password = passwords.get(user.name, "")
        login = f"on #{hashlib.sha256(password.encode()).hexdigest()}" if password else "off"
        known = [name for name in user.commands if not (redis_7_0 and name in SINCE_7_2)]
        commands = " ".join(f"+{name}" for name in known)
        words = (
            "user",
            user.name,
            login,
            "resetkeys resetchannels -@all",
            *user.keys,
            *user.channels,
            commands,
        )
        lines.append(" ".join(words))
    return "\n".join(lines) + "\n"
