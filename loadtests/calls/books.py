"""What was charged, by subscriber: acknowledged, or begun and not answered yet.

A debit is written down before it is sent, with its request id. One that is still open when the test ends,
because its user was stopped or the service could not answer, is settled: sent again under the same id, which
tells what became of it. So in the end every cent is known, and the balances must say the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final, NamedTuple
from uuid import uuid4

from common.errors import CallerError, KeyReused, RatelError
from loadtests.calls.plan import TENANT

EXIT_MONEY: Final = 3
"""The exit code of a run whose balances do not agree with what was acknowledged."""


class Debit(NamedTuple):
    """All that is sent: under the same id the very same is to be sent again."""

    subject: str
    number: str
    amount: Decimal
    """Cents."""
    request_id: str

    @property
    def fields(self) -> dict[str, Any]:
        return {
            "CstmId": TENANT,
            "Subject": self.subject,
            "DestinationPrefix": self.number,
            "Amount": self.amount,
            "RequestId": self.request_id,
        }


class Books:
    """Of one process."""

    def __init__(self) -> None:
        self.taken: Counter[str] = Counter()
        """Millionths of a cent, acknowledged, by subscriber."""
        self.open: dict[str, Debit] = {}

    def begin(self, subject: str, number: str, amount: Decimal) -> Debit:
        debit = Debit(subject, number, amount, str(uuid4()))
        self.open[debit.request_id] = debit
        return debit

    def done(self, debit: Debit) -> None:
        """It was acknowledged."""
        if self.open.pop(debit.request_id, None) is not None:
            self.taken[debit.subject] += int(debit.amount * 1_000_000)

    def refused(self, debit: Debit) -> None:
        self.open.pop(debit.request_id, None)

    def settle(self, repeat: Callable[[Debit], object]) -> list[str]:
        """Send what is open again; the complaints about what could not be settled."""
        complaints = []
        for debit in list(self.open.values()):
            try:
                repeat(debit)
            except KeyReused as error:  # something else was sent again: what became of the debit is not known
                complaints.append(_unsettled(debit, error))
            except CallerError:
                self.refused(debit)
            except RatelError as error:
                complaints.append(_unsettled(debit, error))
            else:
                self.done(debit)
        return complaints

    def as_message(self) -> dict[str, Any]:
        """For the master, by msgpack."""
        return {"taken": dict(self.taken), "open": len(self.open)}

    def add(self, message: Mapping[str, Any]) -> None:
        self.taken.update(message["taken"])


def _unsettled(debit: Debit, error: RatelError) -> str:
    return f"{debit.subject}: a debit of {debit.amount} is unsettled: {error}"


def disagreements(
    opening: Mapping[str, Decimal], closing: Mapping[str, Decimal], taken: Mapping[str, int]
) -> list[str]:
    """Where the balances, in cents, say something else than what was acknowledged, in millionths."""
    found = []
    for subject, before in opening.items():
        expected = before - Decimal(taken.get(subject, 0)).scaleb(-6)
        if closing.get(subject) != expected:
            found.append(f"{subject}: expected {expected} cents, found {closing.get(subject)}")
    unknown = sorted(set(taken) - set(opening))
    return found + [f"{subject}: was charged and has no account" for subject in unknown]
