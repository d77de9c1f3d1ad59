"""API keys: how one is made and recognised, and what the file says of it. No I/O, no clock.

    ratel_4f1c9a02b7_<64 hexadecimal digits>
          └─ id ───┘ └─ secret, 256 random bits ─┘

The id is no secret: it finds the record and stands in logs and lists. Of the key itself the file has only
the SHA-256. A slow, salted hash is for secrets that people choose and others may guess; nobody guesses
256 random bits, so the time of a slow hash would buy nothing and be paid by every HTTP request. Keys are
compared by their hashes and in constant time, so that nothing is learnt from how long a refusal takes; an id
that is not there costs the same comparison.

A key is bound to tenants (or all) and to methods, by name or by group (`common.methods.Group`). Whatever a
record does not say is not allowed.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections import Counter
from typing import Final, Literal

import msgspec

from common.methods import BY_NAME, METHODS, Group
from common.security.scopes import bind
from common.times import parse_rfc3339

ALL: Final = "*"
"""In place of a tenant: every one."""

ID_BYTES: Final = 5
SECRET_BYTES: Final = 32
KEY_CHARS: Final = len("ratel_") + 2 * ID_BYTES + 1 + 2 * SECRET_BYTES

MAX_KEYS: Final = 10_000
"""In one file: it is read in one go between two requests, which takes some 30 ms then."""

MAX_FILE_BYTES: Final = 8 * 1024 * 1024
MAX_NAME_CHARS: Final = 100
MAX_LIMIT: Final = 10_000_000
"""Requests a second and in flight: more than any front does."""

_ID: Final = re.compile(rf"[0-9a-f]{{{2 * ID_BYTES}}}")
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_KEY: Final = re.compile(rf"ratel_([0-9a-f]{{{2 * ID_BYTES}}})_[0-9a-f]{{{2 * SECRET_BYTES}}}")
_NO_HASH: Final = "0" * 64
"""Of no key: nobody knows a text with this hash."""

GROUPS: Final = {group.value: group for group in Group}


class BadKeyFile(ValueError):
    """The text says which key, which field, and what was expected."""


class Limits(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What may be asked; each front counts for itself."""

    rate: float | None = None
    """Requests a second, in the long run."""
    burst: int | None = None
    """Requests at once after a pause; default: those of one second."""
    in_flight: int | None = None
    """Requests without an answer yet."""


class KeyRecord(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    id: str
    name: str
    sha256: str
    tenants: tuple[str, ...]
    allow: tuple[str, ...]
    """Names of groups and of methods."""
    created: str
    expires: str | None = None
    """RFC 3339: from then on it is refused."""
    revoked: str | None = None
    """When it was; it is refused from the next reading of the file on, whatever the time is."""
    limits: Limits | None = None

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods of the API that it is for."""
        groups = {GROUPS[word] for word in self.allow if word in GROUPS}
        names = {BY_NAME[word].name for word in self.allow if word not in GROUPS}
        return tuple(each.name for each in METHODS if each.group in groups or each.name in names)

    @property
    def expires_s(self) -> float | None:
        return None if self.expires is None else parse_rfc3339(self.expires) / 1_000_000


class KeyFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: Literal[1] = 1
    keys: tuple[KeyRecord, ...] = ()
    limits: dict[str, Limits] = {}
    """By tenant: for all keys together that are bound to it alone. `*` is for each tenant not named."""


def new_key(taken: set[str]) -> tuple[str, str]:
    """The id and the key, which is nowhere else. The id is not one of those taken."""
    while True:
        key_id = secrets.token_hex(ID_BYTES)
        if key_id not in taken:
            return key_id, f"ratel_{key_id}_{secrets.token_hex(SECRET_BYTES)}"


def hash_key(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def id_of(key: str) -> str | None:
    """The id in what may be a key; None for what has not the form of one."""
    found = _KEY.fullmatch(key) if len(key) == KEY_CHARS else None
    return found[1] if found else None


def is_key(key: str, sha256: str | None) -> bool:
    """Whether that is the hash of the key; None is of none."""
    return hmac.compare_digest(hash_key(key), sha256 or _NO_HASH)


def encode_keys(file: KeyFile) -> bytes:
    return msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n"


def decode_keys(text: bytes) -> KeyFile:
    """Raises BadKeyFile. An empty text is a file without keys, with which nobody gets in."""
    if not text.strip():
        return KeyFile()
    try:
        file = msgspec.json.decode(text, type=KeyFile)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadKeyFile(str(error)) from None
    if len(file.keys) > MAX_KEYS:
        raise BadKeyFile(f"{len(file.keys)} keys, the limit is {MAX_KEYS}")
    for place, record in enumerate(file.keys):
        try:
            check_record(record)
        except ValueError as error:
            raise BadKeyFile(f"keys[{place}] (id {record.id[:40]!r}): {error}") from None
    twice = [key_id for key_id, count in Counter(record.id for record in file.keys).items() if count > 1]
    if twice:
        raise BadKeyFile(f"two keys have the id {twice[0]!r}")
    for tenant, limits in file.limits.items():
        try:
            _check_tenant(tenant)
            check_limits(limits)
        except ValueError as error:
            raise BadKeyFile(f"limits[{tenant[:40]!r}]: {error}") from None
    return file


def check_record(record: KeyRecord) -> None:
    """Raises ValueError."""
    if not _ID.fullmatch(record.id):
        raise ValueError(f"id: expected {2 * ID_BYTES} hexadecimal digits in lower case")
    if not _HASH.fullmatch(record.sha256):
        raise ValueError("sha256: expected 64 hexadecimal digits in lower case")
    if not 0 < len(record.name) <= MAX_NAME_CHARS or not record.name.isprintable():
        raise ValueError(f"name: expected 1 to {MAX_NAME_CHARS} printable characters")
    check_tenants(record.tenants)
    check_allow(record.allow)
    for field, text in (
        ("created", record.created),
        ("expires", record.expires),
        ("revoked", record.revoked),
    ):
        if text is not None:
            try:
                parse_rfc3339(text)
            except ValueError as error:
                raise ValueError(f"{field}: {error}") from None
    if record.limits is not None:
        check_limits(record.limits)


def check_tenants(tenants: tuple[str, ...]) -> None:
    if not tenants:
        raise ValueError(f"tenants: expected names of tenants, or {ALL!r} for all")
    if ALL in tenants and len(tenants) > 1:
        raise ValueError(f"tenants: {ALL!r} is all of them, and stands alone")
    for tenant in tenants:
        _check_tenant(tenant)
    try:
        bind(max(BY_NAME, key=len), tenants)
    except ValueError as error:
        raise ValueError(f"tenants: {error}: make several keys, or one for all tenants") from None


def _check_tenant(tenant: str) -> None:
    if not 0 < len(tenant) <= 256:
        raise ValueError("tenants: a name has 1 to 256 characters")


def check_allow(allow: tuple[str, ...]) -> None:
    for word in allow:
        if word not in GROUPS and word not in BY_NAME:
            raise ValueError(
                f"allow: there is no {word[:40]!r}; known are the groups {', '.join(GROUPS)} and the methods "
                f"{', '.join(method.name for method in METHODS)}"
            )
    if not allow:
        raise ValueError("allow: expected groups or methods")


def check_limits(limits: Limits) -> None:
    for field in ("rate", "burst", "in_flight"):
        value = getattr(limits, field)
        if value is not None and not 0 < value <= MAX_LIMIT:
            raise ValueError(f"{field}: expected a number above 0 and up to {MAX_LIMIT}, not {value}")
    if limits.burst is not None and limits.rate is None:
        raise ValueError("burst: goes with a rate")
