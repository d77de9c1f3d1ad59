"""What a server of the tests of clients answers: a call cost, the amount, or that there is no rate."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from common.errors import NoRate, RatelError
from tests.integration.rpc_server import Fate

CALL_COST = {
    "TOR": 0,
    "CstmId": "vdf",
    "Subject": "rif",
    "DestinationPrefix": "0256",
    "Cost": 540,
    "ConnectFee": 0,
    "Timespans": [
        {
            "TimeStart": "2012-02-02T17:30:00Z",
            "TimeEnd": "2012-02-02T18:00:00.5Z",
            "Cost": 360.1,
            "ActivationPeriod": {"ActivationTime": "2012-01-01T00:00:00Z"},
            "Interval": {"Price": 0.2, "BillingUnit": 1},
            "MinuteInfo": None,
        },
        {
            "TimeStart": "2012-02-02T18:00:00.5Z",
            "TimeEnd": "2012-02-02T18:10:00.5Z",
            "Cost": 0,
            "Interval": None,
            "MinuteInfo": {"DestinationId": "[nationale]", "Quantity": 600, "Price": 0},
        },
        {"TimeStart": "2012-02-02T18:10:00.5Z", "TimeEnd": "2012-02-02T18:30:00Z", "Cost": 0},
    ],
}

as_json = msgspec.json.Encoder(decimal_format="number").encode


def answer(method: str, cd: dict[str, Any]) -> bytes | RatelError | Fate:
    if cd.get("Subject") == "nobody":
        return NoRate(tenant="vdf", subject="nobody", destination="0256")
    if method == "GetCost":
        return json.dumps(CALL_COST).encode()
    return as_json(cd.get("Amount", 0))
