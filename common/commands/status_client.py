"""Asks a front how it does, over HTTP: for `ratel status` and `ratel top`."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

Status = dict[str, Any]

MAX_BYTES: Final = 64 * 1024 * 1024


class Unreachable(Exception):
    """Nobody answers there, or it is no front of Ratel."""


class Refused(Exception):
    """It answers, and does not tell."""


def status_url(url: str) -> str:
    """The URL of the status, for that of a front. Raises ValueError."""
    if "://" not in url:
        url = f"http://{url}"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"expected http://HOST:PORT, not {url!r}")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError(f"expected http://HOST:PORT without a path, not {url!r}")
    _ = parts.port  # raises ValueError
    return f"{parts.scheme}://{parts.netloc}/status.json"


class Asked(NamedTuple):
    url: str
    """From `status_url`."""
    timeout_s: float
    api_key_file: str | None = None
    tls_ca: str | None = None


def fetch(whom: Asked) -> Status:
    """Raises Unreachable, Refused."""
    url = whom.url
    request = urllib.request.Request(url)
    try:
        if whom.api_key_file is not None:
            key = Path(whom.api_key_file).read_text(encoding="ascii").strip()
            request.add_header("authorization", f"Bearer {key}")
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
        if url.startswith("https:"):
            context = ssl.create_default_context(cafile=whom.tls_ca)
            handlers.append(urllib.request.HTTPSHandler(context=context))
    except (OSError, ValueError) as error:
        raise Refused(f"the API key or the CA can't be read: {error}") from None
    opener = urllib.request.build_opener(*handlers)
    try:
        with opener.open(request, timeout=whom.timeout_s) as response:
            status = json.loads(response.read(MAX_BYTES))
    except urllib.error.HTTPError as error:
        with error:
            raise Refused(f"{url} answers {error.code} {error.reason}") from None
    except (OSError, ValueError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise Unreachable(f"{url}: {reason}") from None
    if not isinstance(status, dict) or not {"raters", "queue", "all", "methods"} <= status.keys():
        raise Unreachable(f"{url} is no front of Ratel")
    return status


class StoreNode(NamedTuple):
    """A primary of a cluster of stores, as the raters that are heard see it together."""

    address: str
    raters: int
    """That tell of it."""
    away: int
    """Of them, those that it does not answer."""
    used_memory: int
    max_memory: int
    replicas: int


def store_nodes(status: Status) -> list[StoreNode]:
    """By address. Other stores than clusters have none."""
    told: dict[str, list[dict[str, Any]]] = {}
    for rater in status["raters"]:
        if rater["state"] != "silent":  # whose word is old
            for node in (rater["store"] or {}).get("nodes", ()):
                told.setdefault(node["address"], []).append(node)
    return [
        StoreNode(
            address,
            len(words),
            sum(not node["ok"] for node in words),
            max(node["used_memory"] for node in words),
            max(node["max_memory"] for node in words),
            max(node["replicas"] for node in words),
        )
        for address, words in sorted(told.items())
    ]


def problems(status: Status) -> list[str]:
    """Why it is not as it should be; an empty list is ready."""
    found: list[str] = []
    if status["draining"]:
        found.append("it is shutting down")
    working = [rater for rater in status["raters"] if rater["state"] == "working"]
    if not working:
        found.append("no rater works: requests wait for their deadline")
    for rater in status["raters"]:
        if rater["state"] not in ("working", "leaving"):
            found.append(f"rater {rater['name']} is {_IS[rater['state']]}")
    for node in store_nodes(status):
        if node.away:
            whom = "" if node.away == node.raters else f" {node.away} of {node.raters} raters"
            found.append(f"the store's node {node.address} does not answer{whom}: its accounts wait")
    if len({rater["tariff_epoch"] for rater in working}) > 1:
        found.append("raters rate by different tariffs")
    if status["queue"]["overloaded"]:
        found.append("more is asked than the raters can do")
    return found


_IS: Final = {"silent": "silent", "no tariff": "without a tariff", "no store": "without a store"}
