"""The names of everything in the store. This table is the one place that says what there is.

| key | type | holds |
| --- | --- | --- |
| `ratel:{T:S}:account` | STRING | one account, see `rater.accounts.value` |
| `ratel:{T:S}:journal` | STREAM | its changes, oldest first, see `rater.accounts.mutations` |
| `ratel:{T:S}:token:<token>` | STRING, expires after its last use | fingerprint and outcome of one mutation |
| `ratel:{tariff}:epoch` | STRING | counter, raised by every switch of a tariff |
| `ratel:{tariff}:active` | HASH | tenant → active version |
| `ratel:tariff:<T>:next` | STRING | counter, the last version number given out |
| `ratel:tariff:<T>:<version>` | HASH | what is known of it, see `rater.tariffs.store` |
| `ratel:tariff:<T>:<version>:<n>` | STRING | part n of it, compressed, from 0 |
| `ratel:raters` | HASH | rater's name → "<epoch> <unix ms>" of its last sign of life, by the store's clock |

T and S are a tenant and a subject with `%`, `:`, `{`, `}` and control characters percent-encoded
(their UTF-8 bytes), everything else as it is: so no two pairs share a name, and the braces around
`T:S` are the first ones in a key, which makes them the hash tag that keeps all keys of an account
in one slot of a cluster. A token stands last and needs no encoding.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from common.errors import InvalidParams

TARIFF_EPOCH: Final = "ratel:{tariff}:epoch"
TARIFF_ACTIVE: Final = "ratel:{tariff}:active"
RATERS: Final = "ratel:raters"

_UNSAFE: Final = re.compile(r"[%:{}\x00-\x1f\x7f-\x9f]")


class AccountKeys(NamedTuple):
    account: bytes
    journal: bytes
    token_prefix: bytes
    """The key of a token is this and the token."""


def encode_part(text: str) -> str:
    """`text` with everything percent-encoded that has a meaning in a key; never two texts alike."""
    if text.isalnum() or _UNSAFE.search(text) is None:
        return text
    return _UNSAFE.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), text)


def utf8(text: str, field: str) -> bytes:
    """The bytes that go to the store. Raises InvalidParams for half of a surrogate pair."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidParams(field=field, detail="holds a lone surrogate, which is not a character") from None


def account_key(tenant: str, subject: str) -> bytes:
    """`account_keys(…).account`, in half of the time for names without special characters."""
    if tenant.isalnum() and subject.isalnum():
        return f"ratel:{{{tenant}:{subject}}}:account".encode()
    return account_keys(tenant, subject).account


def account_keys(tenant: str, subject: str) -> AccountKeys:
    """The keys of one account. Raises InvalidParams when one of the names is not Unicode text."""
    try:
        stem = f"ratel:{{{encode_part(tenant)}:{encode_part(subject)}}}:".encode()
    except UnicodeEncodeError:
        utf8(tenant, "CstmId")
        utf8(subject, "Subject")
        raise
    return AccountKeys(stem + b"account", stem + b"journal", stem + b"token:")


def tariff_key(tenant: str, version: int) -> str:
    return f"ratel:tariff:{encode_part(tenant)}:{version}"


def tariff_chunk_key(tenant: str, version: int, chunk: int) -> str:
    return f"ratel:tariff:{encode_part(tenant)}:{version}:{chunk}"


def tariff_next_key(tenant: str) -> str:
    return f"ratel:tariff:{encode_part(tenant)}:next"
