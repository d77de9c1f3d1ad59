"""The named calls and the types of their results say what the method table and the schemas say."""

from __future__ import annotations

import inspect
import re
import types
import typing
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from common.api import types as api_types
from common.api.async_calls import AsyncCalls
from common.api.calls import Calls, descriptor
from common.api.schemas import SCHEMAS, result
from common.methods import BY_NAME, METHODS, TERMS, Method
from common.rpc.jsonrpc_replies import encode_call
from rater.accounts.terms import Terms, parse_terms
from rater.descriptor_reader import parse_descriptor

SEEN: dict[str, Any] = {}


def resolve(schema: dict[str, Any]) -> dict[str, Any]:
    return SCHEMAS[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def assert_alike(hint: Any, schema: dict[str, Any], where: str) -> None:
    """That a type and a JSON schema say the same."""
    schema = resolve(schema)
    if "oneOf" in schema and {"type": "null"} not in schema["oneOf"]:
        for kind, other in zip(get_args(hint), schema["oneOf"], strict=True):
            assert_alike(kind, other, where)
    elif "oneOf" in schema:
        assert type(None) in get_args(hint), where
        (other,) = [each for each in schema["oneOf"] if each != {"type": "null"}]
        rest = [each for each in get_args(hint) if each is not type(None)]
        assert_alike(typing.Union[tuple(rest)], other, where)  # noqa: UP007
    elif "enum" in schema:
        assert get_origin(hint) is Literal, where
        assert set(get_args(hint)) == set(schema["enum"]), where
    elif schema["type"] == "object":
        hints = get_type_hints(hint)
        assert hints.keys() == schema["properties"].keys(), where
        assert hint.__required_keys__ == set(schema["required"]), where
        for name, inner in schema["properties"].items():
            assert_alike(hints[name], inner, f"{where}.{name}")
        SEEN[hint.__name__] = hint
    elif schema["type"] == "array":
        assert get_origin(hint) is list, where
        assert_alike(get_args(hint)[0], schema["items"], f"{where}[]")
    elif schema["type"] == "number":
        assert set(get_args(hint)) == {int, Decimal}, where
    else:
        assert hint is {"integer": int, "string": str, "boolean": bool}[schema["type"]], where


def python_name(method: Method) -> str:
    """GetMaxSessionTime → get_max_session_time, and received is spelled as it should be."""
    name = method.name.replace("SMS", "Sms").replace("Recieved", "Received")
    return "".join(f"_{each.lower()}" if each.isupper() else each for each in name).lstrip("_")


def calls(cls: type) -> dict[str, Any]:
    return {name: each for name, each in vars(cls).items() if not name.startswith("_") and name != "call"}


def test_there_is_a_named_call_for_each_method() -> None:
    assert calls(Calls).keys() == calls(AsyncCalls).keys() == {python_name(method) for method in METHODS}


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_named_call_returns_what_the_schema_says(method: Method) -> None:
    for cls in (Calls, AsyncCalls):
        hint = get_type_hints(calls(cls)[python_name(method)])["return"]
        schema = result(method)
        if "const" in schema or schema.get("type") == "number":
            assert hint == api_types.Number
        else:
            assert_alike(hint, schema, method.name)


def test_every_type_is_part_of_a_result() -> None:
    for method in METHODS:
        test_a_named_call_returns_what_the_schema_says(method)
    ours = {name for name, each in vars(api_types).items() if typing.is_typeddict(each)}
    assert ours == SEEN.keys()


TERM_NAMES = {re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower() for name in TERMS}


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_named_call_needs_what_the_method_needs(method: Method) -> None:
    for cls in (Calls, AsyncCalls):
        parameters = inspect.signature(calls(cls)[python_name(method)]).parameters
        needed = {name for name, each in parameters.items() if each.default is each.empty} - {"self"}
        expected = {"tenant", "subject"}
        expected |= {"amount"} if method.needs_amount else set()
        expected |= {"destination"} if method.needs_destination else set()
        expected |= {"start", "end"} if method.needs_times else set()
        assert needed == expected
        optional = parameters.keys() - needed - {"self", "tor", "timeout_s", "destination"}
        taken = {"request_id"} if method.mutates else set()
        taken |= {"start", "end", "amount"} if method.takes_times else set()
        taken |= {"amount"} if method.takes_amount else set()
        taken |= TERM_NAMES if method.takes_terms else set()
        assert optional == taken
        assert all(each.kind is each.KEYWORD_ONLY for name, each in parameters.items() if name != "self")


START = datetime(2012, 2, 2, 17, 30, tzinfo=UTC)
GIVEN: dict[str, Any] = {
    "tenant": "vdf",
    "subject": "rif",
    "destination": "0257",
    "start": START,
    "end": "2012-02-02T18:30:00Z",
    "amount": Decimal("1.5"),
    "tor": 2,
    "request_id": "r-1",
    "blocked": False,
    "type": "postpaid",
    "min_credit": Decimal("-0.5"),
    "no_min_credit": False,
    "tariff_plan_id": "gold",
    "no_tariff_plan": False,
    "reset_day_of_the_month": 0,
}


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_named_call_is_the_call_of_its_method_with_every_field_in_its_place(method: Method) -> None:
    made: list[tuple[str, dict[str, Any], float | None]] = []

    class Waits(Calls):
        def call(self, method: str, descriptor: Any = None, *, timeout_s: float | None = None) -> Any:
            made.append((method, descriptor, timeout_s))
            return 1

    class Awaits(AsyncCalls):
        async def call(self, method: str, descriptor: Any = None, *, timeout_s: float | None = None) -> Any:
            made.append((method, descriptor, timeout_s))
            return 1

    name = python_name(method)
    taken = inspect.signature(calls(Calls)[name]).parameters
    given = {name: value for name, value in GIVEN.items() if name in taken}
    assert getattr(Waits(), name)(**given, timeout_s=3) == 1
    coroutine = getattr(Awaits(), name)(**given, timeout_s=3)
    assert isinstance(coroutine, types.CoroutineType)
    with pytest.raises(StopIteration):
        coroutine.send(None)
    (called, fields, timeout_s), again = made
    assert again == (called, fields, timeout_s)
    assert BY_NAME[called] is method
    assert timeout_s == 3
    message = encode_call(1, called, fields)
    read = parse_descriptor(message[message.index(b'"params":') + 9 : -2], method)
    dialled = "0257" if "destination" in taken else ""
    assert (read.tenant, read.subject, read.destination, read.tor) == ("vdf", "rif", dialled, 2)
    if "amount" in taken:
        assert read.amount_micros == 1_500_000
    if "request_id" in taken:
        assert read.request_id == "r-1"
    if "blocked" in taken:
        given = {"NoMinCredit": False, "NoTariffPlan": False}
        terms = Terms(postpaid=True, min_credit_micros=-500_000, plan="gold", reset_day=0, blocked=False)
        assert fields.items() >= given.items()
        assert parse_terms(encode_call(1, called, fields).partition(b'"params":')[2][:-2]) == terms
    if "start" in taken:
        assert read.end_us - read.start_us == 3_600_000_000
        assert read.start_us == int(START.timestamp()) * 1_000_000


def test_what_is_not_given_is_left_out() -> None:
    given = {"tenant": "vdf", "subject": "rif", "destination": "", "amount": None, "tor": 0}
    assert descriptor(**given) == {"CstmId": "vdf", "Subject": "rif", "TOR": 0}
