"""An operator at work during a chaos run: decides the terms of some accounts, blocks and unblocks them.

As `ratel account` does it, at the store itself and through no rater, or by SetTerms over the API, while
clients debit these accounts.
Each decision has a floor of its own, so each line in a journal is one decision's. What the store did not
confirm is sent again until it is, under the same request id.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from decimal import Decimal
from random import Random
from typing import Final, NamedTuple

from common.addresses import Address
from common.client import JSONClient
from common.errors import ServiceError
from common.storage.store import StoreConnection
from rater.accounts.admin import decide
from rater.accounts.terms import Terms
from tests.chaos.books import now_us
from tests.chaos.wires import number
from tests.chaos.workload import HELD, TENANT

PAUSES_S: Final = (0.02, 0.2)
"""Between two decisions: some debits are under way in each, and each account is blocked half of the time."""
AGAIN_S: Final = 0.1
TIMEOUT_MS: Final = 2_000
CALL_TIMEOUT_S: Final = 6.0


class Decision(NamedTuple):
    subject: str
    terms: str
    """As the journal has them."""
    blocked: bool
    sent_us: int
    """For the first time."""
    told_us: int | None
    """When the store confirmed it; None: never."""


class Operator:
    def __init__(
        self, seed: int, store_url: str, fronts: Sequence[Address], subjects: Sequence[str] = HELD
    ) -> None:
        self.decisions: list[Decision] = []
        self._random = Random(f"{seed}/operator")
        self._url = store_url
        self._fronts = [str(front) for front in fronts]
        self._subjects = subjects
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.failure: Exception | None = None
        """What ended it before it was stopped."""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Finish the decision that is under way, if the store is there."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            with (
                StoreConnection(self._url, timeout_ms=TIMEOUT_MS) as store,
                JSONClient(self._fronts, timeout_s=CALL_TIMEOUT_S) as client,
            ):
                while not self._stopping.wait(self._random.uniform(*PAUSES_S)):
                    self._decide(store, client)
        except Exception as error:
            self.failure = error

    def _decide(self, store: StoreConnection, client: JSONClient) -> None:
        place = len(self.decisions) + 1
        subject, blocked = self._random.choice(self._subjects), self._random.random() < 0.5
        floor, day = -place, place % 32
        text = f"prepaid floor={floor} reset_day={day} blocked={int(blocked)} plan=basic"
        terms = Terms(min_credit_micros=floor, reset_day=day, blocked=blocked)
        descriptor = {
            "CstmId": TENANT,
            "Subject": subject,
            "MinCredit": Decimal(number(floor)),
            "ResetDayOfTheMonth": day,
            "Blocked": blocked,
            "RequestId": f"decision-{place}",
        }
        by_api = self._random.random() < 0.5
        sent_us, told_us = now_us(), None
        while told_us is None:
            try:
                if by_api:
                    client.call("SetTerms", descriptor)
                else:
                    decide(store, TENANT, subject, terms, f"decision-{place}")
                told_us = now_us()
            except ServiceError:  # the store is away, full, a replica: as for clients, it is asked again
                if self._stopping.wait(AGAIN_S):
                    break
        self.decisions.append(Decision(subject, text, blocked, sent_us, told_us))
