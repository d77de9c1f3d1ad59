"""Steady debits from several threads while a test does its worst, all of it in a ledger.

Every debit has its own key. A debit whose outcome is unknown, or that the service could not do, is sent
again with that key until it is acknowledged or refused: so nothing is unresolved at the end, unless the
service is not back by then.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType

from common.client import JSONClient
from common.errors import CallerError, RatelError, ServiceError
from tests.faults.ledger import Ledger, Reckoning
from tests.faults.nodes import PATIENCE_S, TENANT, Site

CALL_TIMEOUT_S = 6.0
"""A little more than the balancer's deadline, so that it is the balancer who says so."""


class Load:
    """Threads that debit accounts one after the other. A context manager: leaving it stops and joins them.

    `connect` makes a thread's client, from its number. Each thread is one request at a time.
    """

    def __init__(
        self,
        connect: Callable[[int], JSONClient],
        openings: dict[str, int],
        *,
        threads: int = 8,
        prefix: str = "",
    ) -> None:
        self.ledger = Ledger(TENANT, openings)
        self.errors: Counter[str] = Counter()
        """Names of the errors that were overcome by sending again."""
        self.failures: list[str] = []
        self._subjects = list(openings)
        self._prefix = prefix
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._done = 0
        self._last_s = time.monotonic()
        self._longest_gap_s = 0.0
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

    def wait(self, debits: int) -> None:
        """Until so many more debits are acknowledged."""
        goal = self._done + debits
        with self._changed:
            reached = self._changed.wait_for(lambda: self._done >= goal or bool(self.failures), PATIENCE_S)
        assert not self.failures, self.failures[:5]
        assert reached, f"no {debits} debits in {PATIENCE_S:g} s; errors {dict(self.errors)}"

    def longest_gap_s(self) -> float:
        """The longest time between two acknowledgements, of all threads, since the last call of this."""
        with self._changed:
            gap_s, self._longest_gap_s = self._longest_gap_s, 0.0
        return gap_s

    def reckon(self, site: Site) -> Reckoning:
        assert site.store is not None
        with site.store.connect() as store:
            return self.ledger.reckon(store)

    def _work(self, number: int, connect: Callable[[int], JSONClient]) -> None:
        try:
            with connect(number) as client:
                for count in itertools.count():
                    if self._stop.is_set():
                        return
                    subject = self._subjects[(number + count) % len(self._subjects)]
                    # Amounts differ, so that a mix-up of two debits shows in the sums.
                    self._debit(
                        client, f"{self._prefix}{number}/{count}", subject, 1 + (number * 7 + count * 3) % 11
                    )
        except Exception as error:
            with self._changed:
                self.failures.append(repr(error))
                self._changed.notify_all()

    def _debit(self, client: JSONClient, key: str, subject: str, amount: int) -> None:
        self.ledger.intend(key, subject, amount)
        descriptor = {"CstmId": TENANT, "Subject": subject, "Amount": amount, "RequestId": key}
        give_up_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                left = client.call("DebitBalance", descriptor, timeout_s=CALL_TIMEOUT_S)
            except ServiceError as error:
                self.errors[error.name] += 1
                if time.monotonic() > give_up_s:
                    raise
                time.sleep(0.02)
            except CallerError as error:
                self.ledger.refuse(key, error.code)
                return
            except RatelError as error:
                raise AssertionError(f"an error outside the tree: {error!r}") from error
            else:
                self.ledger.acknowledge(key, left)
                self._count()
                return

    def _count(self) -> None:
        with self._changed:
            now_s = time.monotonic()
            self._longest_gap_s = max(self._longest_gap_s, now_s - self._last_s)
            self._last_s = now_s
            self._done += 1
            self._changed.notify_all()
