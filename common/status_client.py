"""Asks a front how it does, over HTTP: for `ratel status` and `ratel top`."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final
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


def fetch(url: str, timeout_s: float, key_file: Path | None = None) -> Status:
    """`url` is from `status_url`. Raises Unreachable, Refused."""
    request = urllib.request.Request(url)
    if key_file is not None:
        request.add_header("authorization", f"Bearer {key_file.read_text().strip()}")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=timeout_s) as response:
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
    if len({rater["tariff_epoch"] for rater in working}) > 1:
        found.append("raters rate by different tariffs")
    if status["queue"]["overloaded"]:
        found.append("more is asked than the raters can do")
    return found


_IS: Final = {"silent": "silent", "no tariff": "without a tariff", "no store": "without a store"}
