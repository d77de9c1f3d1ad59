"""A tenant can never read or change another's data, whatever it sends.

The holder of a key for `red` tries to reach two other tenants by every method and every way to say something:
over TCP through gateway, balancer and rater, at a rater's own port, and over HTTP. Afterwards every byte in
the store that is not red's is what it was.
"""

from __future__ import annotations

import http.client
import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import product
from urllib.parse import quote, urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.methods import BY_NAME, BY_RPC_NAME
from tests.e2e.keyed import MARK, ONLY_THEIRS, OWN, RED, VICTIMS, KeyedCluster, Line, message, ratel

TIMES = '"TimeStart":"2026-02-02T17:30:00Z","TimeEnd":"2026-02-02T18:30:00Z"'
REST = f'"DestinationPrefix":"{ONLY_THEIRS}","Amount":1,{TIMES}'
TERM = '"ResetDayOfTheMonth":7'
"""What SetTerms needs beside it; others are to be asked without, in the form that most requests have."""

NAMES = (
    "CstmId",
    "cstmid",
    "CSTMID",
    "CstmID",
    "\\u0043stmId",
    "C\\u0073tmId",
    "C\\u017ftmId",
    "cstmId ",
    "Tenant",
)
"""Ways to write the name of the field, some of which are none: \\u017f is a long s, which folds to an s."""

OTHER_VALUES = ("null", '""', "0", "true", "[]", "{}", '["red"]', '{"CstmId":"red"}')

SUBJECTS = (
    "rif",
    "rif:rif",
    "x",
    "blue:rif",
    "}:account",
    "rif}:account",
    "x}:account ratel:{blue:rif",
    "{blue:rif}",
    "blue%3Arif",
    "../blue:rif",
    "rif}:token:c:theirs",
    "*any",
    "*",
    "blue\\u0000rif",
    "\\u0000",
    "rif\\r\\nGET ratel:{blue:rif}:account",
)


def spellings(tenant: str) -> list[str]:
    """JSON texts that are that tenant, or look like it."""
    escaped = "".join(f"\\u{ord(character):04x}" for character in tenant)
    wide = "".join(chr(ord(character) + 0xFEE0) for character in tenant)
    around = (f" {tenant}", f"{tenant} ", f"{tenant}\\u0000", f"{tenant}\\u200b", f"\\ufeff{tenant}")
    texts = [tenant, escaped, tenant.upper(), tenant.title(), wide, *around]
    joined = (f"{RED},{tenant}", f"{RED}\\u0000{tenant}", f"{RED}:rif}}:account", "*", f"{RED}|{tenant}")
    return [f'"{text}"' for text in (*texts, *joined)]


def descriptors(victim: str) -> Iterator[str]:
    """Call descriptors that want something of the victim."""
    red, theirs = f'"{RED}"', json.dumps(victim)
    for name in NAMES:
        yield f'{{"{name}":{theirs},"Subject":"rif",{REST}}}'
        yield f'{{"CstmId":{red},"{name}":{theirs},"Subject":"rif",{REST}}}'
        yield f'{{"{name}":{theirs},"Subject":"rif",{REST},"CstmId":{red}}}'
    for text in (*spellings(victim), *OTHER_VALUES):
        yield f'{{"CstmId":{text},"Subject":"rif",{REST}}}'
        yield f'{{"CstmId":{text},"CstmId":{theirs},"Subject":"rif",{REST}}}'
    for subject in SUBJECTS:
        yield f'{{"CstmId":{red},"Subject":"{subject}",{REST}}}'
    yield f'{{"CstmId":{red},"Subject":"rif","RequestId":"theirs",{REST}}}'
    yield f'{{"CstmId":{theirs},"Subject":"rif","RequestId":"theirs",{REST}}}'
    yield f'{{"CstmId":{red},"Subject":"rif}}:account","RequestId":"x\\u0000","Subject2":{theirs},{REST}}}'
    yield f'{{"Subject":"rif",{REST}}}'


def with_terms(method: str, descriptor: str) -> str:
    return f"{descriptor[:-1]},{TERM}}}" if method.endswith("SetTerms") else descriptor


def rpc_messages(victim: str) -> Iterator[bytes]:
    """Beyond what stands in the descriptor: everything that is around it."""
    for method, descriptor in product(BY_RPC_NAME, descriptors(victim)):
        yield message(method, with_terms(method, descriptor))
    theirs = f'{{"CstmId":{json.dumps(victim)},"Subject":"rif",{REST}}}'
    own = f'{{"CstmId":"{RED}","Subject":"rif",{REST}}}'
    everybodys = theirs, own
    for name in BY_NAME:
        theirs, own = (with_terms(name, text) for text in everybodys)
        bound = f"{name} {json.dumps([victim])}"
        for method in (bound, f"Responder.{bound}", f'Responder.{name} ["*"]', f"Responder.{name}\0", name):
            yield message(method, theirs)
        for params in (f"[{own},{theirs}]", f"[[{theirs}]]", f"[{theirs},null]", f'"{theirs!r}"', "7"):
            yield message(f"Responder.{name}", params if params != f'"{theirs!r}"' else json.dumps(theirs))
        yield (
            f'{{"id":1,"method":"Responder.{name}","params":[{own}],"params":[{theirs}],"method":"Responder.GetCost"}}'
        ).encode()
        yield f'[{{"jsonrpc":"2.0","id":1,"method":"Responder.{name}","params":{theirs}}}]'.encode()
        yield (
            f'{{"jsonrpc":"2.0","id":1,"method":"Responder.{name}","params":{own},"CstmId":{json.dumps(victim)},'
            f'"tenant":{json.dumps(victim)},"tenants":["*"]}}'
        ).encode()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyedCluster]:
    cluster = KeyedCluster(tmp_path_factory.mktemp("isolation"))
    try:
        cluster.wait_ready()
        # A debit of theirs under a key that red will use, too.
        with Line(cluster.jsonrpc, cluster.blue) as blue:
            reply = blue.call(
                "Responder.DebitBalance", CstmId="blue", Subject="rif", Amount=1, RequestId="theirs"
            )
        assert reply["result"] == int(MARK) - 1
        yield cluster
    finally:
        cluster.stop()


def check_reply(text: bytes, sent: object) -> None:
    """No result is theirs: no price to where only they have rates, no figure near theirs."""
    assert text.strip(), sent
    reply = json.loads(text)
    for one in reply if isinstance(reply, list) else [reply]:
        check_result(one.get("result"), (sent, one))


def check_result(result: object, seen: object) -> None:
    """Nothing, a figure of red's, an account of red's, or an explanation why red has no rate to there."""
    assert MARK[:4] not in str(result), seen
    if isinstance(result, dict):
        assert (result.get("CstmId"), result.get("Verdict", "no_rate")) == (RED, "no_rate"), seen


@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("port", ["jsonrpc", "direct"])
def test_over_tcp_nothing_of_theirs_is_reached(cluster: KeyedCluster, port: str, victim: str) -> None:
    before = cluster.state_of_others()
    messages = list(rpc_messages(victim))
    with Line(getattr(cluster, port), cluster.red) as line:
        replies = line.ask(messages)
        for sent, reply in zip(messages, replies, strict=True):
            check_reply(reply, sent)
        kinds = Counter(name for reply in replies for name in re.findall(r'"name":"(\w+)"', reply.decode()))
        # Most of it is understood as what it is; what is not is for the parsers to say, not for luck.
        assert kinds["forbidden"] > 20 * len(BY_RPC_NAME)
        assert not kinds.keys() & {"overloaded", "deadline_exceeded", "internal_error", "unauthorized"}, kinds
        # What is red's own works all the while.
        assert "result" in line.call("Responder.DebitSMS", CstmId=RED, Subject="rif", Amount=1)
    assert cluster.state_of_others() == before


def test_another_tenants_request_id_is_no_request_of_ones_own(cluster: KeyedCluster) -> None:
    with Line(cluster.jsonrpc, cluster.red) as line:
        own = {"CstmId": RED, "Subject": "fresh", "Amount": 1, "RequestId": "theirs"}
        assert line.call("Responder.DebitBalance", **own)["result"] == 999_999
        [reply] = line.ask([message("Responder.DebitBalance", json.dumps(own | {"CstmId": "blue"}))])
        assert b'"forbidden"' in reply


VALUES = [text for victim in VICTIMS for text in spellings(victim)] + [f'"{RED}"', *OTHER_VALUES]
TENANT_MEMBERS = st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES))
OTHER_MEMBERS = st.tuples(
    st.sampled_from(["subject", "RequestId", "Amount", "params", "Tor", "tenants", ""]),
    st.one_of(st.sampled_from(VALUES), st.sampled_from([f'"{subject}"' for subject in SUBJECTS])),
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    method=st.sampled_from(sorted(BY_RPC_NAME)),
    tenants=st.lists(TENANT_MEMBERS, min_size=1, max_size=3),
    others=st.lists(OTHER_MEMBERS, max_size=2),
    data=st.data(),
    space=st.sampled_from(["", " ", "\t", "\r"]),
    in_list=st.booleans(),
)
def test_no_descriptor_reaches_anything_of_theirs(
    cluster: KeyedCluster,
    method: str,
    tenants: list[tuple[str, str]],
    others: list[tuple[str, str]],
    data: st.DataObject,
    space: str,
    in_list: bool,
) -> None:
    before = cluster.state_of_others()
    members = [f'"{name}"{space}:{value}' for name, value in [*tenants, *others]]
    members = data.draw(st.permutations([*members, '"Subject":"rif"', *REST.split(",")]))
    text = with_terms(method, f"{{{f',{space}'.join(members)}}}")
    with Line(cluster.jsonrpc, cluster.red) as line:
        [reply] = line.ask([message(method, f"[{text}]" if in_list else text)])
    check_reply(reply, text)
    assert cluster.state_of_others() == before


# --- HTTP -----------------------------------------------------------------------------------------

METHOD_PATHS = ("/%", "http:", "//", "/x", *(f"/{name.lower()}" for name in BY_NAME))
HttpTry = tuple[str, str, bytes | None, list[tuple[str, str]]]
"""Verb, target, body and headers."""


def http_tries(victim: str, key: str) -> Iterator[HttpTry]:
    bearer = [("Authorization", f"Bearer {key}")]
    form = [("Content-Type", "application/x-www-form-urlencoded")]
    rest = {"subj": "rif", "dest": ONLY_THEIRS, "amount": "1", "resetdayofthemonth": "7"}
    tail, v = urlencode(rest), quote(victim, safe="")
    queries = [
        f"cstmid={v}&{tail}",
        f"CSTMID={v}&{tail}",
        f"%63stmid={v}&{tail}",
        f"CstmId={v}&{tail}",
        f"cstmid={RED}&cstmid={v}&{tail}",
        f"cstmid={v}&{tail}&CstmId={RED}",
        f"cstmid={RED}@cstmid={v}@{tail}",
        f"{tail}@cstmid={v}",
        f"cstmid={RED}&{tail}#&cstmid={v}",
        f"cstmid={RED}%26cstmid={v}&{tail}",
        f"cstmid={RED};cstmid={v}&{tail}",
        f"cstmid={v}%00&{tail}",
        f"cstmid={RED}&subj=rif%7D%3Aaccount&dest=1&amount=1",
        f"cstmid={RED}&subj={v}%3Arif&dest={ONLY_THEIRS}&amount=1",
        f"cstmid=%ef%bd%82lue&{tail}",
        "".join(f"%{byte:02x}" for byte in b"cstmid") + f"={v}&{tail}",
        f"cstmid={RED}&{tail}&requestid=theirs",
    ]
    for name in (method.lower() for method in BY_NAME):
        for query in queries:
            yield "GET", f"/{name}?{query}", None, bearer
        for query in queries[:12]:
            yield "POST", f"/{name}", query.encode(), bearer + form
        yield "POST", f"/{name}?cstmid={RED}", f"cstmid={v}&{tail}".encode(), bearer + form
        yield "POST", f"/{name}?cstmid={v}", tail.encode(), bearer + form
        for body in (
            {"cstmid": victim} | rest,
            {"CstmId": victim, "Subject": "rif", "DestinationPrefix": ONLY_THEIRS, "Amount": 1},
        ):
            text = json.dumps(body | {"amount": 1, "resetdayofthemonth": 7})
            yield "POST", f"/{name}", text.encode(), bearer
            yield "POST", f"/{name}", (text[:-1] + f',"cstmid":"{RED}"}}').encode(), bearer
        for path in (f"/%{ord(name[0]):02x}{name[1:]}", f"http://{v}/{name}", f"//{name}", f"/x/../{name}"):
            yield "GET", f"{path}?cstmid={v}&{tail}", None, bearer
        yield "GET", f"/{name}?cstmid={v}&{tail}", None, [*bearer, ("Idempotency-Key", "theirs")]
        yield "GET", f"/{name}?cstmid={v}&{tail}", None, [*bearer, ("X-Tenant", victim), ("Host", victim)]
        yield "GET", f"/{name}?cstmid={v}&{tail}", None, []
        yield "GET", f"/{name}?cstmid={v}&{tail}&apikey={key}", None, []
        yield "GET", f"/{name}?cstmid={v}&{tail}", None, [*bearer, ("X-API-Key", key)]
    for page in ("/openapi.json", "/healthz", "/readyz", "/metrics", "/"):
        yield "GET", page, None, bearer


@pytest.mark.parametrize("victim", VICTIMS)
def test_over_http_nothing_of_theirs_is_reached(cluster: KeyedCluster, victim: str) -> None:
    before = cluster.state_of_others()
    connection = http.client.HTTPConnection(cluster.http.removeprefix("http://"), timeout=30)
    with closing(connection):
        statuses = _try_all(connection, cluster, victim)
    assert {200, 400, 401, 403, 404} <= statuses
    assert cluster.state_of_others() == before


def _try_all(connection: http.client.HTTPConnection, cluster: KeyedCluster, victim: str) -> set[int]:
    """The statuses of the answers, which are all in order."""
    statuses = set()
    for verb, target, body, headers in http_tries(victim, cluster.red):
        connection.putrequest(verb, target, skip_host=True)
        host = [] if any(name == "Host" for name, _ in headers) else [("Host", "ratel")]
        for name, value in [*host, *headers, ("Content-Length", str(len(body or b"")))]:
            connection.putheader(name, value)
        connection.endheaders(body)
        response = connection.getresponse()
        text = response.read().decode()
        statuses.add(response.status)
        if response.status == 200 and target.startswith(METHOD_PATHS):
            check_result(json.loads(text), (verb, target, body, text))
        assert MARK[:4] not in text or target == "/openapi.json", (verb, target, body, text)
    messages = list(rpc_messages(victim))
    for place in range(0, len(messages), 400):
        connection.request(
            "POST", "/jsonrpc", b"\n".join(messages[place : place + 400]), {"X-API-Key": cluster.red}
        )
        for line in connection.getresponse().read().splitlines():
            check_reply(line, "a body")
    return statuses


def test_the_others_can_do_what_was_tried_and_the_books_are_right(cluster: KeyedCluster) -> None:
    """The last of the module: the very same requests work with the key that is for them."""
    with Line(cluster.jsonrpc, cluster.blue) as blue:
        cost = blue.ask([message("Responder.GetCost", next(descriptors("blue")))])
        assert b'"Cost":3600' in cost[0] or b'"Cost"' in cost[0]
        assert (
            blue.call("Responder.DebitBalance", CstmId="blue", Subject="rif", Amount=1)["result"]
            == int(MARK) - 2
        )
        assert (
            blue.call("Responder.SetTerms", CstmId="blue", Subject="rif", ResetDayOfTheMonth=7)["result"] == 1
        )
        refused = blue.call("Responder.DebitBalance", CstmId=RED, Subject="rif", Amount=1)
        data = refused["error"]["data"]
        assert data.pop("log_id").startswith("g:")
        assert data == {"name": "forbidden", "what": "tenant 'red'"}
    assert OWN != ONLY_THEIRS
    ratel("audit", "--store", f"embedded:{cluster.data}")
