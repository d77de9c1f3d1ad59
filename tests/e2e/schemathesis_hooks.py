"""What the OpenAPI document can't say: loaded by schemathesis itself, in the process of `test_schemathesis`.

A parameter's schema knows nothing of the other parameters, and the document names the strict form of what
is read more liberally. Everything else that schemathesis finds is a failure.
"""

from __future__ import annotations

import re
from typing import Any

import schemathesis

TOGETHER = re.compile(
    "|".join(
        (
            "end: is given without start",
            "duration: is given beside end",
            "duration: ends beyond the year 9999",
            "TimeEnd: .* is before TimeStart",
            "a call of .* s is too long",
            "TOR: expected an integer, not a number",  # but for JSON Schema 39.0 is one
            "ResetDayOfTheMonth: expected a whole number",
            "terms: none is given",
            "(NoMinCredit|NoTariffPlan): is given beside",
            # JSON-RPC: what is needed depends on the method, and keys are for one call.
            "(Amount|DestinationPrefix|TimeStart|TimeEnd): is missing",
            "Idempotency-Key: is for one call",
            "RequestId: differs from the header Idempotency-Key",
        )
    )
)
"""Messages about what a parameter's schema can't say, mostly since it concerns two of them."""


@schemathesis.hook
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """False for what is no failure."""
    if failure.code == "ST202":  # a valid request was refused
        return not (response.status_code == 400 and TOGETHER.match(response.json()["error"]["message"]))
    if failure.code == "ST201":  # an invalid one was not
        return case.path != "/jsonrpc" and not _has_an_empty_time(case)
    return True


def _has_an_empty_time(case: Any) -> bool:
    """An empty text is as good as absent."""
    given = [part for part in (case.query, case.body) if isinstance(part, dict)]
    return any(part.get(name) == "" for part in given for name in ("start", "end"))
