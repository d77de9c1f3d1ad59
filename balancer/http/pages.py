"""The status page: its files, as they are in `balancer/http/web`, and who it is that looks at it.

Nothing in these files is secret, so they are for everybody; the figures that the page asks for are not
(`app`). The policy lets a browser run and load what comes from here and nothing else, neither inline
scripts nor styles: what an account or a subject is called can't become part of the page's program.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import Final, NamedTuple

import msgspec

from balancer.http.message import JSON, Request
from common.security.api_keys import ALL
from common.security.keyring import Grant

POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_KINDS: Final = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}
_FOLDER: Final = files("balancer.http") / "web"
_INDEX: Final = "index.html"

PATHS: Final = {
    b"/" if entry.name == _INDEX else b"/web/" + entry.name.encode(): entry.name
    for entry in _FOLDER.iterdir()
    if entry.name.endswith(tuple(_KINDS))
}
"""By path, the name of the file."""

WHOAMI: Final = b"/whoami"

NO_STORE: Final = b"cache-control: no-store\r\n"


class _Page(NamedTuple):
    kind: bytes
    body: bytes
    tag: bytes
    headers: bytes


def serve(request: Request, path: bytes) -> None:
    """GET or HEAD of one of `PATHS`; a browser that has it already is told so."""
    page = _page(PATHS[path])
    known = [tag.strip() for value in request.values(b"if-none-match") for tag in value.split(b",")]
    if any(tag.removeprefix(b"W/") == page.tag for tag in known):
        request.respond(304, b"", page.headers)
    else:
        request.respond_with(page.kind, page.body, page.headers)


def serve_identity(request: Request, grant: Grant | None) -> None:
    """What the caller may do. Without keys that is everything, but not from a page that anybody can open."""
    record = None if grant is None else grant.record
    body = {
        "Keys": record is not None,
        "Id": record.id if record else "",
        "Tenants": record.tenants if record else (ALL,),
        "Methods": record.methods if record else (),
    }
    request.respond_with(JSON, msgspec.json.encode(body), NO_STORE)


@cache
def _page(name: str) -> _Page:
    """Read once: a front that runs serves the files that it was started with."""
    body = (_FOLDER / name).read_bytes()
    tag = b'"%b"' % hashlib.sha256(body).hexdigest()[:32].encode()
    headers = (
        b"etag: %b\r\ncache-control: no-cache\r\ncontent-security-policy: %b\r\n"
        b"x-content-type-options: nosniff\r\nreferrer-policy: no-referrer\r\n" % (tag, POLICY)
    )
    return _Page(_KINDS[name[name.rindex(".") :]], body, tag, headers)
