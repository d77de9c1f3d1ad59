"""The OpenAPI document says what the code does: each method, route, parameter, bound and error, both ways."""

from __future__ import annotations

import ast
import asyncio
import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any, cast

import pytest

import balancer
import rater
from balancer.http.app import HttpApp
from balancer.http.message import Request
from balancer.http.openapi import (
    HTTP_ERRORS,
    document,
    document_bytes,
)
from balancer.http.query import _FIELDS, descriptor_of
from balancer.router import Router
from common.api.errors import ELSEWHERE, OF_METHOD, errors_of
from common.api.schemas import ERROR_FIELDS, IDEMPOTENCY_KEY, PARAMETERS, data_of, parameter_names
from common.errors import BY_CODE, InvalidParams, KeyReused, RatelError, UnknownSubject
from common.methods import BY_HTTP_NAME, METHODS, Method
from rater.accounts.mutations import _SCRIPT_OF
from rater.descriptor_reader import parse_descriptor

DOCUMENT = document()
VERBS = ("get", "head", "post", "put", "patch", "delete", "options")
NOW_US = 1_700_000_000_000_000
OTHER_PATHS = set(DOCUMENT["paths"]) - {f"/{name}" for name in BY_HTTP_NAME}


class NoRouter:
    """Whatever reaches it is a path that there is."""

    def __init__(self) -> None:
        self.refused: Counter[str] = Counter()

    readiness = (1, 1)

    def turn_away(self, _method: Method) -> None:
        return None

    def submit(self, method: Method, params: bytes, key: str, answer: Any) -> None:
        answer(0, b"0", False)


class Sent(list[tuple[int, bytes]]):
    def respond(self, request: Request, status: int, body: bytes, more: bytes) -> None:
        self.append((status, body))


def ask(verb: str, path: str) -> tuple[int, bytes]:
    """Status and body from the application itself."""
    sent = Sent()

    async def run() -> None:
        HttpApp(cast(Router, NoRouter())).serve(Request(sent, verb.upper().encode(), path.encode(), []))
        while not sent:
            await asyncio.sleep(0)

    asyncio.run(run())
    return sent[0]


def constants(path: str) -> set[str]:
    tree = ast.parse((Path(balancer.__file__).parent / path).read_text())
    values = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    return {value.decode() for value in values if isinstance(value, bytes)}


def test_it_is_served_as_it_is() -> None:
    status, body = ask("get", "/openapi.json")
    assert status == 200
    assert json.loads(body) == DOCUMENT
    assert document_bytes() is document_bytes()


def test_it_is_an_openapi_document() -> None:
    pytest.importorskip("schemathesis").openapi.from_dict(DOCUMENT).validate()


def test_every_path_of_the_code_is_documented() -> None:
    found = constants("http/app.py") | constants("http/watch.py") | constants("http/pages.py")
    assert {text for text in found if re.fullmatch(r"/[\w.]+", text)} == OTHER_PATHS
    assert set(DOCUMENT["paths"]) >= {f"/{name}" for name in BY_HTTP_NAME}


@pytest.mark.parametrize("path", DOCUMENT["paths"])
@pytest.mark.parametrize("verb", VERBS)
def test_exactly_the_documented_verbs_are_served(path: str, verb: str) -> None:
    status, _ = ask(verb, path)
    assert status != 404
    assert (status != 405) == (verb in DOCUMENT["paths"][path])


def test_every_parameter_that_is_read_is_documented() -> None:
    assert set(PARAMETERS) | {"requestid"} == set(_FIELDS.values())
    assert {name for method in METHODS for names in parameter_names(method) for name in names} == set(
        PARAMETERS
    )


@pytest.mark.parametrize("name", BY_HTTP_NAME)
def test_a_method_needs_the_parameters_that_are_marked_so(name: str) -> None:
    get, post = DOCUMENT["paths"][f"/{name}"]["get"], DOCUMENT["paths"][f"/{name}"]["post"]
    query = {each["name"]: each for each in get["parameters"] if each["in"] == "query"}
    required = {name for name, each in query.items() if each["required"]}
    for content in post["requestBody"]["content"].values():
        assert set(content["schema"]["properties"]) == set(query)
        assert set(content["schema"]["required"]) == required
    params = {name: str(each["example"]) for name, each in query.items() if each["required"]}
    read(BY_HTTP_NAME[name], params)
    for missing in required:
        with pytest.raises(InvalidParams):
            read(BY_HTTP_NAME[name], {name: text for name, text in params.items() if name != missing})


def read(method: Method, params: dict[str, str]) -> Any:
    return parse_descriptor(descriptor_of(method, params, NOW_US), method)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize("verb", ["get", "post"])
def test_exactly_mutations_take_a_key_and_may_be_replays(method: Method, verb: str) -> None:
    operation = DOCUMENT["paths"][f"/{method.name.lower()}"][verb]
    takes_key = any(each["name"] == "Idempotency-Key" for each in operation["parameters"])
    assert takes_key == method.mutates
    assert ("headers" in operation["responses"]["200"]) == method.mutates


GOOD = {"cstmid": "vdf", "subj": "rif", "dest": "0257", "amount": "1"}
COST, DEBIT = BY_HTTP_NAME["getcost"], BY_HTTP_NAME["debitbalance"]


@pytest.mark.parametrize("name", ["cstmid", "subj", "dest"])
def test_texts_have_the_documented_lengths(name: str) -> None:
    longest = PARAMETERS[name]["maxLength"]
    read(DEBIT, GOOD | {name: "x" * PARAMETERS[name]["minLength"]})
    read(DEBIT, GOOD | {name: "x" * longest})
    for wrong in ("", "x" * (longest + 1)):
        with pytest.raises(InvalidParams):
            read(DEBIT, GOOD | {name: wrong})


@pytest.mark.parametrize("name", ["amount", "tor", "duration"])
def test_numbers_have_the_documented_bounds(name: str) -> None:
    method = COST if name == "duration" else DEBIT
    low, high = PARAMETERS[name]["minimum"], PARAMETERS[name]["maximum"]
    step = 1 if name == "tor" else PARAMETERS[name]["multipleOf"]
    for right in (low, low + step, 0, high):
        read(method, GOOD | {name: repr(right)})
    beyond = (
        (low - 1, high + 1)
        if name == "tor"
        else (math.nextafter(low, -math.inf), math.nextafter(high, math.inf))
    )
    for wrong in (*beyond, step / 10):
        with pytest.raises(InvalidParams):
            read(method, GOOD | {name: repr(wrong)})


@pytest.mark.parametrize(
    ("text", "is_time"),
    [("2012-02-02T17:30:00Z", True), ("2012-02-02 17:30:00.123456789+02:00", True), ("2012-02-02", False)],
)
def test_times_have_the_documented_pattern(text: str, is_time: bool) -> None:
    assert bool(re.search(PARAMETERS["start"]["pattern"], text, re.ASCII)) == is_time
    if is_time:
        read(COST, GOOD | {"start": text})
    else:
        with pytest.raises(InvalidParams):
            read(COST, GOOD | {"start": text})


@pytest.mark.parametrize("key", ["a", "a b", '"a', "x" * 256, "", " ", "a ", "é", '""', "x" * 257])
def test_keys_have_the_documented_pattern(key: str) -> None:
    from balancer.http.app import _idempotency_key

    schema = IDEMPOTENCY_KEY
    fits = bool(re.search(schema["pattern"], key)) and len(key) <= schema["maxLength"]
    if fits and key != schema["not"]["const"]:
        assert _idempotency_key([key.encode()]) == key
    elif key != "a ":  # which is read as "a"
        with pytest.raises(InvalidParams):
            _idempotency_key([key.encode()])


def test_every_error_is_documented_or_never_answered_over_http() -> None:
    documented = {cls for method in METHODS for cls in errors_of(method, has_body=True)}
    assert documented | set(ELSEWHERE) == set(BY_CODE.values())
    assert not documented & set(ELSEWHERE)
    assert set(OF_METHOD) == {method.name for method in METHODS}


def test_every_field_of_an_error_has_an_example() -> None:
    answered = set(BY_CODE.values()) - set(ELSEWHERE)
    assert {name for cls in answered for name in data_of(cls)} == set(ERROR_FIELDS)


@pytest.mark.parametrize(
    "method", [method for method in METHODS if method.mutates], ids=lambda method: method.name
)
def test_a_mutation_is_refused_with_the_errors_that_its_script_names(method: Method) -> None:
    text = (Path(rater.__file__).parent / "lua" / f"{_SCRIPT_OF[method.name]}.lua").read_text()
    errors = text.partition("\nErrors: in the place of the request\n")[2].partition("\n]]")[0]
    assert errors
    named = {line.split()[0] for line in errors.splitlines()} - {"Expired"}
    common = {UnknownSubject.__name__, KeyReused.__name__}
    assert named == {cls.__name__ for cls in OF_METHOD[method.name]} | common


@pytest.mark.parametrize("path", DOCUMENT["paths"])
def test_each_response_holds_the_errors_of_its_status(path: str) -> None:
    schemas = DOCUMENT["components"]["schemas"]
    for verb, operation in DOCUMENT["paths"][path].items():
        for status, response in operation["responses"].items():
            names = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(response)))
            errors = {name for name in names if "error" in schemas[name].get("properties", {})}
            for name in errors:
                code = schemas[name]["properties"]["error"]["properties"]["code"]["const"]
                assert status in name if code == 0 else BY_CODE[code].http_status == int(status)
            method = BY_HTTP_NAME.get(path[1:])
            if method is not None:
                expected = {
                    cls.__name__
                    for cls in errors_of(method, has_body=verb == "post")
                    if cls.http_status == int(status)
                }
                assert {name for name in errors if not name.startswith("Http")} == expected


def test_what_http_alone_answers_is_documented() -> None:
    found = set()
    for module in ("http/app.py", "http/connection.py", "http/reader.py"):
        for node in ast.walk(ast.parse((Path(balancer.__file__).parent / module).read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("_refuse", "self._refuse"):
                values = [each.value for each in node.args[:3] if isinstance(each, ast.Constant)]
                found.add(tuple(values[:2]))
    elsewhere = {(404, "not_found"), (405, "method_not_allowed")}  # of paths and verbs that are not in it
    assert found == set(HTTP_ERRORS) | elsewhere


def test_unknown_paths_are_not_found() -> None:
    assert ask("get", "/nothing")[0] == 404


def test_examples_of_errors_are_what_is_sent() -> None:
    for cls in set(BY_CODE.values()) - set(ELSEWHERE):
        (example,) = DOCUMENT["components"]["schemas"][cls.__name__]["examples"]
        sent: RatelError = cls(**data_of(cls))
        assert example["error"]["message"] == sent.message
