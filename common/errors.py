"""Every error that Ratel answers with: one tree, one class for each distinct cause.

A class carries a stable JSON-RPC `code`, a stable `name` for programs to match on, and the HTTP
status that fits. Its message is made from its fields, which travel beside it as `data`. There are
two branches: `CallerError` (the request is wrong or is refused; sending it again unchanged is
pointless) and `ServiceError` (we failed; the same request may succeed later).

On the wire an error is the JSON object `{"code", "name", "message", "data"}`; see `encode_error`.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

JsonScalar = str | int | None


class RatelError(Exception):
    """Base of the tree. `data` holds the fields that the message was made from."""

    code: ClassVar[int] = -32603
    name: ClassVar[str] = "internal_error"
    http_status: ClassVar[int] = 500
    template: ClassVar[str] = "a fault of the service: {detail}"

    def __init__(self, **data: JsonScalar) -> None:
        self.data = data
        super().__init__(self.template.format(**data))

    @property
    def message(self) -> str:
        return str(self.args[0])


class CallerError(RatelError):
    """The request is wrong, or is refused by a rule: nothing was changed."""


class ServiceError(RatelError):
    """The service could not do it; the request itself may be fine."""


# --- the request is malformed -----------------------------------------------------------------


class ParseError(CallerError):
    code, name, http_status = -32700, "parse_error", 400
    template = "not valid JSON: {detail}"


class InvalidRequest(CallerError):
    code, name, http_status = -32600, "invalid_request", 400
    template = "not a request: {detail}"


class MethodNotFound(CallerError):
    code, name, http_status = -32601, "method_not_found", 404
    template = "there is no method {method!r}"


class InvalidParams(CallerError):
    code, name, http_status = -32602, "invalid_params", 400
    template = "{field}: {detail}"


class MessageTooLarge(CallerError):
    code, name, http_status = -32001, "message_too_large", 413
    template = "the message is larger than the limit of {limit_bytes} bytes"


class NestedTooDeep(CallerError):
    code, name, http_status = -32002, "nested_too_deep", 400
    template = "the message is nested deeper than the limit of {limit} levels"


class CallTooLong(CallerError):
    code, name, http_status = -32003, "call_too_long", 400
    template = "a call of {seconds} s is too long, the longest that is rated is {limit_seconds} s"


class ResultTooLarge(CallerError):
    code, name, http_status = -32004, "result_too_large", 400
    template = "the result has {size_bytes} bytes, the limit is {limit_bytes}: ask about a shorter call"


# --- the request is understood and refused ------------------------------------------------------


class Refusal(CallerError):
    """A business rule says no. Refusals of mutations by a live account are stored for replay."""


class UnknownTenant(Refusal):
    code, name, http_status = -32010, "unknown_tenant", 404
    template = "there is no tenant {tenant!r}"


class UnknownSubject(Refusal):
    code, name, http_status = -32011, "unknown_subject", 404
    template = "tenant {tenant!r} has no account for subject {subject!r}"


class NoRate(Refusal):
    code, name, http_status = -32012, "no_rate", 404
    template = "tenant {tenant!r} has no rate for subject {subject!r} and destination {destination!r}"


class NotActive(Refusal):
    code, name, http_status = -32013, "not_active", 409
    template = "the rate for {prefix!r} becomes active at {active_from}, after the start {time_start}"


class BelowFloor(Refusal):
    code, name, http_status = -32014, "below_floor", 402
    template = "a debit of {amount} from a credit of {credit} would go below the floor of {min_credit}"


class InsufficientSms(Refusal):
    code, name, http_status = -32015, "insufficient_sms", 402
    template = "a debit of {amount} SMS exceeds the budget of {sms}"


class InsufficientSeconds(Refusal):
    code, name, http_status = -32016, "insufficient_seconds", 402
    template = "a debit of {amount} s exceeds the {seconds} s in the matching buckets"


class InsufficientCredit(Refusal):
    code, name, http_status = -32017, "insufficient_credit", 402
    template = "the seconds cost {cost}, more than the {credit} that the account can spend"


class NoBucket(Refusal):
    code, name, http_status = -32018, "no_bucket", 409
    template = "subject {subject!r} has no minute bucket that matches destination {destination!r}"


class NoTariffPlan(Refusal):
    code, name, http_status = -32019, "no_tariff_plan", 409
    template = "the account of subject {subject!r} has no tariff plan to reset to (plan {plan!r})"


class OutOfRange(Refusal):
    code, name, http_status = -32020, "out_of_range", 409
    template = "the {balance} would leave the range of ±9007199254.740991"


class KeyReused(Refusal):
    code, name, http_status = -32021, "key_reused", 422
    template = "the request id {request_id!r} was used before with other parameters"


class TooManyBuckets(Refusal):
    code, name, http_status = -32022, "too_many_buckets", 409
    template = "the bonus needs a new minute bucket, and the account has the {limit} that it may have"


class Blocked(Refusal):
    code, name, http_status = -32025, "blocked", 403
    template = "the account of subject {subject!r} is blocked"


# --- who calls -------------------------------------------------------------------------------------


class Unauthorized(CallerError):
    """Nobody knows who calls: no API key, a wrong one, or one that is no longer valid."""

    code, name, http_status = -32040, "unauthorized", 401
    template = "{detail}"


class Forbidden(CallerError):
    """It is known who calls, and this is not theirs. It says nothing of what is there."""

    code, name, http_status = -32041, "forbidden", 403
    template = "the API key is not for {what}"


class TariffConflict(CallerError):
    code, name, http_status = -32023, "tariff_conflict", 409
    template = (
        "tenant {tenant!r}: version {active} is active by now, not {expected}, which this was based on: "
        "someone else loaded meanwhile; nothing was switched, load again"
    )


# --- we failed ------------------------------------------------------------------------------------


class InternalError(ServiceError):
    pass


class Damaged(InternalError):
    """What the store holds is not what belongs there. The request changed nothing. Clients get its base."""


class Overloaded(ServiceError):
    code, name, http_status = -32030, "overloaded", 503
    template = "{detail}"


class DeadlineExceeded(ServiceError):
    """The outcome is unknown: a mutation may or may not have happened. Retry with the same key."""

    code, name, http_status = -32031, "deadline_exceeded", 504
    template = "the deadline has passed: {detail}"


class StoreUnavailable(ServiceError):
    code, name, http_status = -32032, "store_unavailable", 503
    template = "the store is not available: {detail}"


class Quarantined(ServiceError):
    code, name, http_status = -32033, "quarantined", 500
    template = "the request was given up after {raters} raters died on it"


class TooManyRequests(ServiceError):
    """Beyond what the key or its tenant may ask. This attempt did nothing: repeat it after the pause."""

    code, name, http_status = -32042, "too_many_requests", 429
    template = "{detail}"


class ShuttingDown(ServiceError):
    code, name, http_status = -32034, "shutting_down", 503
    template = "shutting down"


class ConnectionLost(ServiceError):
    """Raised by the client. The outcome is unknown: the request may have been carried out."""

    code, name, http_status = -32035, "connection_lost", 502
    template = "the connection to {address} failed: {detail}"


class NotDurable(ServiceError):
    """The outcome is unknown: too few copies confirmed the change. Retry with the same key."""

    code, name, http_status = -32036, "not_durable", 503
    template = (
        "the outcome is unknown: done on the primary, {confirmed} of {copies} copies confirmed it within "
        "{timeout_ms} ms; send the same request with the same key again"
    )


class TariffUnreadable(ServiceError):
    code, name, http_status = -32024, "tariff_unreadable", 500
    template = "version {version} of the tariff of tenant {tenant!r} can't be read: {detail}"


class ErrorBody(msgspec.Struct, frozen=True):
    """An error as it travels."""

    code: int
    name: str
    message: str
    data: dict[str, Any] = msgspec.field(default_factory=dict)


def _classes(base: type[RatelError]) -> list[type[RatelError]]:
    found = [base]
    for child in base.__subclasses__():
        found += _classes(child)
    return found


BY_CODE: dict[int, type[RatelError]] = {
    cls.code: cls for cls in _classes(RatelError) if "code" in vars(cls) or cls is InternalError
}
"""Wire code → class, for clients and gateways."""

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(ErrorBody)


def encode_error(error: RatelError) -> bytes:
    """The JSON object that stands for `error` in every reply."""
    return _encoder.encode(ErrorBody(error.code, error.name, error.message, error.data))


_LOG_ID = b'"log_id":'


def with_log_id(body: bytes, log_id: str) -> bytes:
    """An encoded error with the name that logs and journal have for its request, last in its data, in place
    of one that it has already.

    A quotation mark in a text has a backslash before it, so what looks like the member is the member.
    """
    if not body.endswith(b"}}"):
        return body
    end = body.rfind(_LOG_ID)
    rest = body[:end] if end >= 0 else body[:-2]
    comma = b"" if rest.endswith((b"{", b",")) else b","
    return b"%b%b%b%b}}" % (rest, comma, _LOG_ID, _encoder.encode(log_id))


def decode_error(body: bytes) -> RatelError:
    """The inverse of `encode_error`, from a reply's JSON object.

    A code this version does not know becomes a plain `RatelError` with the same message.
    """
    return error_from_body(_decoder.decode(body))


def error_name(body: bytes) -> str:
    """The name in an encoded error; "" for what is none."""
    try:
        return _decoder.decode(body).name
    except msgspec.MsgspecError:
        return ""


def error_from_body(body: ErrorBody) -> RatelError:
    """The exception for a decoded error object; its message is the one that was sent."""
    cls = BY_CODE.get(body.code, RatelError)
    error = cls.__new__(cls)
    error.data = dict(body.data)
    Exception.__init__(error, body.message)
    return error
