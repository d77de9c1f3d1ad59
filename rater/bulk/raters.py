"""Who rates the calls of a file: a cluster, or a tariff folder in this very process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from common.client import JSONClient
from common.errors import CallerError, ConnectionLost, RatelError, ServiceError, Unauthorized, UnknownTenant
from common.money import to_micros
from rater.bulk.records import FileProblem, Record
from rater.loader.assembly import NothingActive, assemble
from rater.loader.files import read_paths
from rater.loader.report import Report
from rater.model import Account
from rater.rating.snapshot import CompiledTariff, compile_tariff
from rater.rating.spans import Call, rate_call

WINDOW: Final = 512
"""Calls on the way at a time: enough to keep several raters busy, half of what a connection may have."""

PATIENCE_S: Final = 30.0
"""For how long calls that the cluster can't answer now are asked again."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0


class Rated(NamedTuple):
    prefix: str
    cost_micros: int
    fee_micros: int


Outcome = Rated | RatelError


class Rater(Protocol):
    def rate(self, records: Sequence[Record]) -> list[Outcome]:
        """Their outcomes; all have a call. Raises ServiceError or Unauthorized when it can't go on."""


class Cluster:
    """Asks for GetCost, so calls are rated with the accounts as they are."""

    def __init__(self, client: JSONClient, sleep: Callable[[float], None] = time.sleep) -> None:
        self._client = client
        self._sleep = sleep

    def rate(self, records: Sequence[Record]) -> list[Outcome]:
        outcomes: list[Outcome | None] = [None] * len(records)
        left = list(range(len(records)))
        pause_s, waited_s = FIRST_PAUSE_S, 0.0
        while left:
            calls = [("GetCost", records[index].params or {}) for index in left]
            failure: RatelError | None = None
            for index, found in zip(left, self._client.call_many(calls, window=WINDOW), strict=True):
                if isinstance(found, Unauthorized):
                    raise found  # it is not about the record
                if isinstance(found, RatelError) and not isinstance(found, CallerError):
                    failure = found
                else:
                    outcomes[index] = found if isinstance(found, RatelError) else _rated(found)
            left = [index for index in left if outcomes[index] is None]
            if failure is None:
                break
            # The client tells a connection lost at once only where there never was one.
            if waited_s >= PATIENCE_S or isinstance(failure, ConnectionLost):
                raise failure if isinstance(failure, ServiceError) else ServiceError(detail=failure.message)
            self._sleep(pause_s)
            waited_s += pause_s
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        return [outcome for outcome in outcomes if outcome is not None]


def _rated(cost: dict[str, Any]) -> Rated:
    fee, whole = (to_micros(Decimal(str(cost[name]))) for name in ("ConnectFee", "Cost"))
    return Rated(str(cost["DestinationPrefix"]), whole, fee)


class Offline:
    """Rates by the tariff files of a folder, with the budgets in them as the accounts."""

    def __init__(self, paths: Sequence[Path], tenant: str, max_call_us: int) -> None:
        """Raises FileProblem when the files have mistakes; the first ones are in its text."""
        report = Report()
        contents = read_paths(paths, report, lambda done, total: None)
        loads = assemble(contents, tenant, NothingActive(), report)
        if report.error_count:
            raise FileProblem("the tariff has mistakes:\n" + "\n".join(report.errors))
        self._tariffs: dict[str, CompiledTariff] = {}
        self._accounts: dict[tuple[str, str], Account] = {}
        for load in loads:
            if load.tariff is not None:
                self._tariffs[load.tenant] = compile_tariff(load.tariff, max_call_us)
            self._accounts |= {(load.tenant, each.subject): each for each in load.accounts}

    def rate(self, records: Sequence[Record]) -> list[Outcome]:
        return [self._rate(record) for record in records]

    def _rate(self, record: Record) -> Outcome:
        call = record.call
        assert call is not None
        tariff = self._tariffs.get(call.tenant)
        if tariff is None:
            return UnknownTenant(tenant=call.tenant)
        account = self._accounts.get((call.tenant, call.subject))
        asked = Call(call.tor, call.tenant, call.subject, call.destination, call.start_us, call.end_us)
        try:
            cost = rate_call(tariff, asked, account)
        except RatelError as error:
            return error
        return Rated(cost.prefix, cost.cost_micros, cost.connect_fee_micros)
