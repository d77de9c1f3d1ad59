"""Methods that are bound to tenants: what a front says to a rater of the API key that a request came with.

The parameters of a request cross the front as text; the rater alone reads them, once. So it is the rater that
sees whether the tenant is one of those that the key is for, in the very value that it then works with: there
is no second reading that a client could make differ from the first. The front says with the request which
tenants these are, in the name of the method:

    GetCost ["vdf"]

A name without tenants is a request without a key, or with one for all tenants. A rater that does not know of
tenants in names does not know the method either, and refuses it: nothing is done for want of understanding.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from common.methods import BY_NAME, Method
from common.wire import MAX_METHOD_CHARS

MAX_SCOPES_KEPT: Final = 1024
"""Names that were taken apart: nine for each set of tenants that keys are bound to, and few sets."""

Bound = tuple[Method | None, frozenset[str] | None]
"""A method, None for one that is not known; and the tenants that it may be done for, None for all."""


def bind(name: str, tenants: Iterable[str]) -> str:
    """The method's name, for these tenants only. Raises ValueError for more than a name can hold."""
    text = f"{name} {json.dumps(sorted(set(tenants)), separators=(',', ':'))}"
    if len(text) > MAX_METHOD_CHARS:
        raise ValueError(f"so many tenants take {len(text)} characters, the limit is {MAX_METHOD_CHARS}")
    return text


@lru_cache(maxsize=MAX_SCOPES_KEPT)
def unbind(text: str) -> Bound:
    """The inverse, for any text; what is not understood is no method."""
    name, space, rest = text.partition(" ")
    method = BY_NAME.get(name)
    if not space or method is None:
        return method, None
    try:
        tenants = json.loads(rest)
    except (ValueError, RecursionError):
        return None, None
    if type(tenants) is not list or not all(type(tenant) is str for tenant in tenants):
        return None, None
    return method, frozenset(tenants)
