"""The OpenRPC document says what the code does, both ways, and has the form that OpenRPC 1.3 asks for."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema_rs
import pytest

from common.api.errors import ELSEWHERE, OF_BODIES, errors_of
from common.api.openrpc import document, document_bytes, fields_of
from common.api.schemas import SCHEMAS
from common.errors import BY_CODE, InvalidParams, TooManyRequests, decode_error
from common.methods import AUTHENTICATE, BY_RPC_NAME, BY_RPC_NAME_AT_FRONT, METHODS, TERMS, Method
from common.rpc.jsonrpc import Session
from common.rpc.jsonrpc_requests import descriptor
from common.security.api_keys import KeyFile
from common.security.keyring import Keyring
from common.security.visitor import ONE_IS_ENOUGH, Visitor, refuse_here
from rater.accounts.terms import parse_terms
from rater.descriptor import FIELDS
from rater.descriptor_reader import parse_descriptor
from tests.unit.test_openapi import ask

DOCUMENT = document()
BY_NAME = {method["name"]: method for method in DOCUMENT["methods"]}

TEXT: dict[str, Any] = {"type": "string"}


def form(needed: dict[str, Any], **optional: Any) -> dict[str, Any]:
    """An object of these members and no others."""
    return {
        "type": "object",
        "required": list(needed),
        "properties": needed | optional,
        "additionalProperties": False,
    }


def some(items: Any, **more: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, **more}


SCHEMA = {"type": ["object", "boolean"]}
REFERENCE = form({"$ref": {"type": "string", "pattern": "^#/components/"}})
PARAMETER = form(
    {"name": TEXT, "schema": SCHEMA}, summary=TEXT, description=TEXT, required={"type": "boolean"}
)
EXAMPLE = form({"name": TEXT, "value": {}}, summary=TEXT, description=TEXT)
METHOD = form(
    {"name": TEXT, "params": some(PARAMETER), "result": PARAMETER},
    summary=TEXT,
    description=TEXT,
    tags=some(form({"name": TEXT}, description=TEXT), uniqueItems=True),
    paramStructure={"enum": ["by-position", "by-name", "either"]},
    errors=some(REFERENCE, uniqueItems=True),
    examples=some(form({"name": TEXT, "params": some(EXAMPLE)}, result=EXAMPLE)),
)
ERROR = form({"code": {"type": "integer"}, "message": TEXT}, data={})
OPENRPC = form(
    {
        "openrpc": {"type": "string", "pattern": r"^1\.3\.\d+$"},
        "info": form(
            {"title": TEXT, "version": TEXT}, description=TEXT, license=form({}, name=TEXT, url=TEXT)
        ),
        "methods": some(METHOD, minItems=1),
    },
    components=form(
        {},
        schemas={"type": "object", "additionalProperties": SCHEMA},
        errors={"type": "object", "additionalProperties": ERROR},
    ),
)
"""The members that OpenRPC 1.3 has for what this document uses, and which of them it requires."""


def test_it_has_the_form_of_openrpc() -> None:
    errors = [str(error) for error in jsonschema_rs.validator_for(OPENRPC).iter_errors(DOCUMENT)]
    assert not errors
    assert len(BY_NAME) == len(DOCUMENT["methods"])
    for method in DOCUMENT["methods"]:
        names = [each["name"] for each in method["params"]]
        assert len(set(names)) == len(names)
        needed = [each["required"] for each in method["params"]]
        assert needed == sorted(needed, reverse=True), "those that are needed come first"


def test_every_reference_leads_somewhere_and_every_component_is_used() -> None:
    found = set(re.findall(r'"#/components/(\w+)/(\w+)"', document_bytes().decode()))
    there = {(kind, name) for kind, parts in DOCUMENT["components"].items() for name in parts}
    assert found <= there
    assert there - found == {("schemas", "CallDescriptor")}
    for schema in SCHEMAS.values():
        jsonschema_rs.validator_for({"$defs": {}, "components": DOCUMENT["components"], **schema})


def test_every_method_that_a_connection_may_call_is_documented_and_no_other() -> None:
    assert BY_NAME.keys() == BY_RPC_NAME_AT_FRONT.keys()


@pytest.mark.parametrize("name", BY_RPC_NAME)
def test_a_method_reads_the_fields_that_are_documented_and_needs_those_that_are_marked_so(name: str) -> None:
    method = BY_RPC_NAME[name]
    params = {each["name"]: each for each in BY_NAME[name]["params"]}
    assert params.keys() <= {*FIELDS, *(TERMS if method.takes_terms else ())}
    assert ("RequestId" in params) == method.mutates
    given = {field: each["schema"]["examples"][0] for field, each in params.items()}
    parse(given, method)
    if method.takes_terms:
        given |= {"NoMinCredit": False, "NoTariffPlan": False}
        parse_terms(json.dumps(given).encode())
    for field, each in params.items():
        rest = {other: value for other, value in given.items() if other != field}
        if field.startswith("Time") and not each["required"]:
            rest = {other: value for other, value in rest.items() if not other.startswith("Time")}
        if each["required"]:
            with pytest.raises(InvalidParams):
                parse(rest, method)
        else:
            parse(rest, method)


def parse(fields: dict[str, Any], method: Method) -> Any:
    params = descriptor(json.dumps(fields).encode())
    assert isinstance(params, bytes)
    return parse_descriptor(params, method)


def test_every_field_is_a_parameter_of_some_method() -> None:
    assert {field for method in METHODS for field in fields_of(method)} == {*FIELDS, *TERMS}


@pytest.mark.parametrize("name", BY_RPC_NAME_AT_FRONT)
def test_a_method_has_the_errors_that_it_can_answer_with(name: str) -> None:
    named = {ref["$ref"].rpartition("/")[2] for ref in BY_NAME[name]["errors"]}
    if name in BY_RPC_NAME:
        assert named == {cls.__name__ for cls in errors_of(BY_RPC_NAME[name], has_body=True)}
    else:
        assert {cls.__name__ for cls in OF_BODIES} < named


def test_every_error_is_described_as_it_is_sent() -> None:
    errors = DOCUMENT["components"]["errors"]
    assert errors.keys() == {cls.__name__ for cls in set(BY_CODE.values()) - set(ELSEWHERE)}
    for name, error in errors.items():
        cls = BY_CODE[error["code"]]
        data = dict(error["data"])
        assert (cls.__name__, cls.name) == (name, data.pop("name"))
        assert cls(**data).message == error["message"]


def test_http_serves_it() -> None:
    status, body = ask("get", "/openrpc.json")
    assert (status, json.loads(body)) == (200, DOCUMENT)


# --- rpc.discover ---------------------------------------------------------------------------------


def answers(text: str, keyring: Keyring | None = None) -> list[Any]:
    """What a connection answers by itself."""
    session = Session()
    assert not Visitor(session, keyring).admit(session.feed(text.encode()))
    return [json.loads(line) for line in session.take_output().splitlines()]


@pytest.mark.parametrize("params", ["", ',"params":[]', ',"params":{}', ',"params":null', ',"params":[ {} ]'])
@pytest.mark.parametrize("keyring", [None, Keyring(KeyFile())], ids=["open", "keys"])
def test_discover_is_answered_to_everybody(params: str, keyring: Keyring | None) -> None:
    [answer] = answers('{"jsonrpc":"2.0","id":1,"method":"rpc.discover"%s}' % params, keyring)  # noqa: UP031
    assert answer == {"jsonrpc": "2.0", "id": 1, "result": DOCUMENT}


def test_discover_speaks_1_0_as_well() -> None:
    [answer] = answers('{"id":1,"method":"rpc.discover","params":[null]}')
    assert answer == {"id": 1, "result": DOCUMENT, "error": None}


def test_discover_takes_no_parameters() -> None:
    [answer] = answers('{"jsonrpc":"2.0","id":1,"method":"rpc.discover","params":{"a":1}}')
    assert answer["error"]["message"] == "params: there are none"


def test_a_burst_of_questions_is_answered_once() -> None:
    """So that a stranger can't have megabytes made of a few bytes."""
    burst = "".join('{"jsonrpc":"2.0","id":%d,"method":"rpc.discover"}' % n for n in range(50))  # noqa: UP031
    first, *others = answers(burst)
    assert first["result"] == DOCUMENT
    assert {each["error"]["code"] for each in others} == {TooManyRequests.code}
    assert decode_error(ONE_IS_ENOUGH).name == "too_many_requests"
    (batch,) = answers(f"[{burst.replace('}{', '},{')}]")
    assert sum("result" in each for each in batch) == 1


def test_other_calls_beside_it_go_on() -> None:
    session = Session()
    text = b'{"id":1,"method":"rpc.discover"}{"id":2,"method":"Responder.GetCost","params":[{}]}'
    [call] = refuse_here(session, session.feed(text))
    assert call.method is BY_RPC_NAME["Responder.GetCost"]
    [line] = session.take_output().splitlines()
    assert json.loads(line)["id"] == 1
    assert AUTHENTICATE is BY_RPC_NAME_AT_FRONT["Responder.Authenticate"]
