"""Steady debits from several threads while a test does its worst, all of it in a ledger.

Every debit has its own key. A debit whose outcome is unknown, or that the service could not do, is sent
again with that key until it is acknowledged or refused: so nothing is unresolved at the end, unless the
service is not back by then.

`RATEL_FAULT_FIGURES` may name a file: how long each fault was felt is appended to it, a JSON object a line.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from common.client import JSONClient
from common.errors import CallerError, RatelError, ServiceError
from common.storage.stores import connect
from tests.faults.ledger import Ledger, Reckoning
from tests.faults.nodes import PATIENCE_S, TENANT, Site

CALL_TIMEOUT_S = 6.0
"""A little more than the balancer's deadline, so that it is the balancer who says so."""
REPLAYS = 300
SLACK = 3
"""Promises are for machines that have time for it; one that runs tests may have none for a while."""


class Load:
    """Threads that debit accounts one after the other. A context manager: leaving it stops and joins them.

    `connect` makes a thread's client, from its number. Each thread is one request at a time. Loads that
    follow each other on the same accounts share a ledger, and have prefixes of their own.
    """

    def __init__(
        self,
        connect: Callable[[int], JSONClient],
        openings: dict[str, int],
        *,
        threads: int = 8,
        prefix: str = "",
        ledger: Ledger | None = None,
    ) -> None:
        self.ledger = ledger or Ledger(TENANT, openings)
        self.errors: Counter[str] = Counter()
        """Names of the errors that were overcome by sending again."""
        self._errors_before: Counter[str] = Counter()
        self.failures: list[str] = []
        self._subjects = list(openings)
        self._prefix = prefix
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._done = 0
        self._done_by = [0] * threads
        self._last_s = time.monotonic()
        self._longest_gap_s = 0.0
        self._longest_debit_s = 0.0
        self._threads = [
            threading.Thread(target=self._work, args=(number, connect), daemon=True)
            for number in range(threads)
        ]

    @property
    def done(self) -> int:
        return self._done

    def __enter__(self) -> Load:
        self._last_s = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Let every thread finish its debit."""
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)
            if thread.is_alive():
                self.failures.append("a debit never got an answer")
        assert not self.failures, self.failures[:5]

    def wait(self, debits: int) -> float:
        """Until so many more debits are acknowledged; how many seconds that took."""
        began_s = time.monotonic()
        goal = self._done + debits
        self._wait_for(lambda: self._done >= goal, f"{debits} debits")
        return time.monotonic() - began_s

    def _wait_for(self, condition: Callable[[], bool], what: str) -> None:
        with self._changed:
            reached = self._changed.wait_for(lambda: bool(self.failures) or condition(), PATIENCE_S)
        assert not self.failures, self.failures[:5]
        assert reached, f"not within {PATIENCE_S:g} s: {what}; errors {dict(self.errors)}"

    def longest_gap_s(self) -> float:
        """The longest time between two acknowledgements, of all threads, since the last call of this."""
        with self._changed:
            gap_s, self._longest_gap_s = self._longest_gap_s, 0.0
        return gap_s

    def start_measuring(self) -> None:
        """Everything is well now: what was felt before does not count."""
        self.longest_gap_s()
        self._longest_debit_s = 0.0
        self._errors_before = self.errors.copy()

    def recovered(self, fault: str, promise_s: float, *, lasted_s: float = 0.0) -> None:
        """Service is back after a fault, and was so within the promise, counted from the fault's end.

        Every debit that was under way is waited for, so that those count which the fault hit.
        `lasted_s` is for faults that nobody can do anything during, such as a store that is away.
        """
        before = list(self._done_by)
        self._wait_for(lambda: all(map(int.__lt__, before, self._done_by)), "each thread is back")
        longest_debit_s, gap_s = self._longest_debit_s, self.longest_gap_s()
        figures = {
            "fault": fault,
            "gap_s": round(gap_s, 3),
            "longest_debit_s": round(longest_debit_s, 3),
            "lasted_s": round(lasted_s, 3),
            "errors": self.errors - self._errors_before,
        }
        print(figures)
        if file := os.environ.get("RATEL_FAULT_FIGURES"):
            with Path(file).open("a") as out:
                out.write(json.dumps(figures) + "\n")
        assert gap_s - lasted_s < SLACK * promise_s, f"{fault}: no service for {gap_s:.1f} s"

    def reckon(self, site: Site) -> Reckoning:
        with connect(site.store_url, timeout_ms=20_000) as store:
            return self.ledger.reckon(store)

    def check(self, site: Site, *errors: str) -> None:
        """The books agree, nothing is open, and clients met no errors but these, after which they went on."""
        reckoning = self.reckon(site)
        assert reckoning.clean, reckoning
        assert not reckoning.unresolved, reckoning
        assert not reckoning.refused, reckoning
        assert self.errors.keys() <= set(errors), self.errors

    def replay(self, site: Site) -> None:
        """What was acknowledged last is answered in the same way when it is asked again."""
        with site.client() as client:
            for key, left in list(self.ledger.told.items())[-REPLAYS:]:
                intent = self.ledger.intents[key]
                descriptor = {"CstmId": TENANT, "Subject": intent.subject, "Amount": intent.amount}
                told = client.call("DebitBalance", descriptor | {"RequestId": key}, timeout_s=CALL_TIMEOUT_S)
                assert told == left, f"{key}: told {told} after {left}"

    def _work(self, number: int, connect: Callable[[int], JSONClient]) -> None:
        try:
            with connect(number) as client:
                for count in itertools.count():
                    if self._stop.is_set():
                        return
                    subject = self._subjects[(number + count) % len(self._subjects)]
                    # Amounts differ, so that a mix-up of two debits shows in the sums.
                    amount = 1 + (number * 7 + count * 3) % 11
                    self._debit(client, f"{self._prefix}{number}/{count}", subject, amount)
                    self._done_by[number] += 1
        except Exception as error:
            with self._changed:
                self.failures.append(repr(error))
                self._changed.notify_all()

    def _debit(self, client: JSONClient, key: str, subject: str, amount: int) -> None:
        self.ledger.intend(key, subject, amount)
        descriptor = {"CstmId": TENANT, "Subject": subject, "Amount": amount, "RequestId": key}
        began_s = time.monotonic()
        while True:
            try:
                left = client.call("DebitBalance", descriptor, timeout_s=CALL_TIMEOUT_S)
            except ServiceError as error:
                self.errors[error.name] += 1
                if time.monotonic() > began_s + PATIENCE_S:
                    raise
                time.sleep(0.02)
            except CallerError as error:
                self.ledger.refuse(key, error.code)
                return
            except RatelError as error:
                raise AssertionError(f"an error outside the tree: {error!r}") from error
            else:
                self.ledger.acknowledge(key, left)
                self._count(began_s)
                return

    def _count(self, began_s: float) -> None:
        with self._changed:
            now_s = time.monotonic()
            self._longest_debit_s = max(self._longest_debit_s, now_s - began_s)
            self._longest_gap_s = max(self._longest_gap_s, now_s - self._last_s)
            self._last_s = now_s
            self._done += 1
            self._changed.notify_all()
