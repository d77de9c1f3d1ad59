"""Which method can answer with which error, for the documents that describe the API.

Tests hold it to the scripts and to what a running cluster answers.
"""

from __future__ import annotations

from typing import Final

from common.errors import (
    BY_CODE,
    BelowFloor,
    Blocked,
    CallTooLong,
    ConnectionLost,
    Forbidden,
    InsufficientCredit,
    InsufficientSeconds,
    InsufficientSms,
    InvalidParams,
    InvalidRequest,
    KeyReused,
    MessageTooLarge,
    MethodNotFound,
    NestedTooDeep,
    NoBucket,
    NoRate,
    NotActive,
    NoTariffPlan,
    OutOfRange,
    ParseError,
    RatelError,
    ResultTooLarge,
    ServiceError,
    TariffConflict,
    TariffUnreadable,
    TooManyBuckets,
    TooManyRequests,
    Unauthorized,
    UnknownSubject,
    UnknownTenant,
)
from common.methods import Method

Errors = tuple[type[RatelError], ...]

ELSEWHERE: Final[Errors] = (ConnectionLost, TariffConflict, TariffUnreadable)
"""Raised by the client and by the loader: HTTP never answers with them."""

_FAILURES: Final[Errors] = tuple(
    cls
    for cls in BY_CODE.values()
    if issubclass(cls, ServiceError) and cls not in (*ELSEWHERE, TooManyRequests)
)
_OF_KEYS: Final[Errors] = (Unauthorized, Forbidden, TooManyRequests)
"""Only where the gateway lets in by API keys."""
_OF_EVERY_METHOD: Final[Errors] = (
    InvalidParams,
    MessageTooLarge,
    UnknownTenant,
    MethodNotFound,
    *_FAILURES,
    *_OF_KEYS,
)
OF_BODIES: Final[Errors] = (InvalidRequest, ParseError, NestedTooDeep)
_OF_MUTATIONS: Final[Errors] = (UnknownSubject, KeyReused)

OF_METHOD: Final[dict[str, Errors]] = {
    "GetCost": (NoRate, NotActive, CallTooLong, ResultTooLarge),
    "DebitBalance": (Blocked, BelowFloor, OutOfRange),
    "DebitSMS": (Blocked, InsufficientSms, OutOfRange),
    "DebitSeconds": (Blocked, InsufficientSeconds, InsufficientCredit, NoBucket, OutOfRange),
    "GetMaxSessionTime": (Blocked, NoRate, NotActive, CallTooLong),
    "AddVolumeDiscountSeconds": (OutOfRange,),
    "ResetVolumeDiscountSeconds": (),
    "AddRecievedCallSeconds": (TooManyBuckets, OutOfRange),
    "ResetUserBudget": (NoTariffPlan,),
    "Explain": (CallTooLong, ResultTooLarge),
    "Account": (UnknownSubject,),
    "History": (UnknownSubject, ResultTooLarge),
    "SetTerms": (),
}
"""Beyond what all methods, or all mutations, can answer."""


def errors_of(method: Method, *, has_body: bool) -> Errors:
    """What a method can answer with beside its result."""
    found = [*_OF_EVERY_METHOD, *OF_METHOD[method.name]]
    found += _OF_MUTATIONS if method.mutates else ()
    found += OF_BODIES if has_body else ()
    return tuple(found)
