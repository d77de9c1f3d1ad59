"""Looks at accounts, all the time, while a test does its worst: Account, History and Explain of those that
are debited meanwhile, and debits of others that are blocked, which must be refused each time."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final

from common.client import JSONClient
from common.errors import Blocked, ServiceError
from tests.faults.load import CALL_TIMEOUT_S
from tests.faults.nodes import PATIENCE_S, TENANT

PAUSE_S: Final = 0.002
"""Between two looks: they are beside the load, and not the load."""

CALL: Final = {
    "DestinationPrefix": "0256",
    "TimeStart": "2012-02-02T17:30:00Z",
    "TimeEnd": "2012-02-02T18:30:00Z",
}


class Lookers:
    """Threads that ask until the end. A context manager: leaving it stops and joins them.

    Errors of the service are counted, so that a test says which of them may be; a look that tells something
    wrong is a failure.
    """

    def __init__(self, connect: Callable[[], JSONClient], accounts: list[str], blocked: list[str]) -> None:
        self.errors: Counter[str] = Counter()
        self.failures: list[str] = []
        self.done: Counter[str] = Counter()
        """Answers by method."""
        self._connect = connect
        self._accounts = accounts
        self._blocked = blocked
        self._stop = threading.Event()
        looks: list[Callable[[JSONClient, int], None]] = [self._account, self._history, self._explain]
        looks.append(self._debit)
        self._threads = [threading.Thread(target=self._work, args=(look,), daemon=True) for look in looks]

    def __enter__(self) -> Lookers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)
        assert not self.failures, self.failures[:5]

    def check(self, *errors: str) -> None:
        """Each of them was answered many times, with no errors but these."""
        print("looks", dict(self.done), dict(self.errors))
        assert not self.failures, self.failures[:5]
        assert self.errors.keys() <= set(errors), self.errors
        assert all(self.done[name] > 50 for name in ("Account", "History", "Explain", "blocked")), self.done

    def _work(self, look: Callable[[JSONClient, int], None]) -> None:
        try:
            with self._connect() as client:
                number = 0
                while not self._stop.is_set():
                    number += 1
                    try:
                        look(client, number)
                    except ServiceError as error:
                        self.errors[error.name] += 1
                    time.sleep(PAUSE_S)
        except BaseException as error:
            self.failures.append(repr(error))

    def _ask(self, client: JSONClient, method: str, subject: str, **fields: Any) -> Any:
        descriptor = {"CstmId": TENANT, "Subject": subject, **fields}
        found = client.call(method, descriptor, timeout_s=CALL_TIMEOUT_S)
        self.done[method] += 1
        return found

    def _subject(self, number: int) -> str:
        subjects = [*self._accounts, *self._blocked]
        return subjects[number % len(subjects)]

    def _account(self, client: JSONClient, number: int) -> None:
        subject = self._subject(number)
        found = self._ask(client, "Account", subject)
        assert (found["Subject"], found["Blocked"]) == (subject, subject in self._blocked), found

    def _history(self, client: JSONClient, number: int) -> None:
        found = self._ask(client, "History", self._subject(number), Amount=20)
        counts = [line["Seq"] for line in found["Lines"]]
        assert counts == [*range(counts[0], counts[0] + len(counts))], counts

    def _explain(self, client: JSONClient, number: int) -> None:
        subject = self._subject(number)
        found = self._ask(client, "Explain", subject, **CALL)
        assert found["Verdict"] == ("blocked" if subject in self._blocked else "ok"), found

    def _debit(self, client: JSONClient, number: int) -> None:
        try:
            left = self._ask(client, "DebitBalance", self._blocked[number % len(self._blocked)], Amount=1)
        except Blocked:
            self.done["blocked"] += 1
        else:
            raise AssertionError(f"a blocked account was debited, {left} is left")
