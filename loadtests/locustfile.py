"""Locust users for a running cluster with the sample tariff: one over JSON-RPC, one over HTTP.

    locust -f loadtests/locustfile.py --headless -u 50 -r 10 -t 30s --host http://127.0.0.1:8000

Every debit carries a RequestId of its own, so what locust counts as done was done once.
RATEL_ADDRESS names the JSON-RPC port, 127.0.0.1:2001 by default.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from locust import HttpUser, User, constant_throughput, task

from common.addresses import parse_address
from common.client import JSONClient

ADDRESS = parse_address(os.environ.get("RATEL_ADDRESS", "127.0.0.1:2001"))
SUBSCRIBER = {"CstmId": "vdf", "Subject": "rif", "DestinationPrefix": "0257"}
CALL = SUBSCRIBER | {"TimeStart": "2012-02-02T17:30:00Z", "TimeEnd": "2012-02-02T18:30:00Z"}
CALLS_PER_S = 10
"""Of each user; locust's -u sets how many there are."""


class JsonRpcUser(User):
    """A switch: asks what a call costs and how long it may last, and debits it."""

    wait_time = constant_throughput(CALLS_PER_S)

    def on_start(self) -> None:
        self.rpc = JSONClient((ADDRESS.host, ADDRESS.port))

    def on_stop(self) -> None:
        self.rpc.close()

    def ask(self, method: str, descriptor: Mapping[str, Any]) -> None:
        """Make one call and tell locust how it went."""
        began_s = time.perf_counter()
        failure: Exception | None = None
        try:
            self.rpc.call(method, descriptor)
        except Exception as error:
            failure = error
        self.environment.events.request.fire(
            request_type="JSON-RPC",
            name=method,
            response_time=(time.perf_counter() - began_s) * 1000,
            response_length=0,
            exception=failure,
        )

    @task(5)
    def get_cost(self) -> None:
        self.ask("GetCost", CALL)

    @task(2)
    def get_max_session_time(self) -> None:
        self.ask("GetMaxSessionTime", SUBSCRIBER | {"Amount": 3600})

    @task(3)
    def debit_balance(self) -> None:
        self.ask("DebitBalance", SUBSCRIBER | {"Amount": 1, "RequestId": str(uuid4())})


class BillingUser(HttpUser):
    """A billing system: the same over HTTP."""

    wait_time = constant_throughput(CALLS_PER_S)
    subscriber = "cstmid=vdf&subj=rif&dest=0257"

    @task(5)
    def get_cost(self) -> None:
        self.client.get(f"/getcost?{self.subscriber}", name="/getcost")

    @task(3)
    def debit_balance(self) -> None:
        key = {"Idempotency-Key": str(uuid4())}
        self.client.get(f"/debitbalance?{self.subscriber}&amount=1", name="/debitbalance", headers=key)
