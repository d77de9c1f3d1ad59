"""The methods of the API by name, with types: `client.get_cost(tenant="vdf", subject="rif", …)`.

A thin layer over `call`, for the client that waits; `common.api.async_calls` has the same for that of
asyncio, method for method. They are written out in both, not made from a table, so that editors and type
checkers know them; a test compares the two, and both with the method table.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from common.api.types import Account, CallCost, Explanation, History, Number

Quantity = int | float | Decimal
"""Cents, SMS units or seconds. A float counts as its shortest text says, 0.1 as 0.1."""
AccountType = Literal["prepaid", "postpaid"]
Time = datetime | str
"""With its zone; a text is RFC 3339."""

_FIELDS = {
    "tenant": "CstmId",
    "subject": "Subject",
    "destination": "DestinationPrefix",
    "start": "TimeStart",
    "end": "TimeEnd",
    "amount": "Amount",
    "tor": "TOR",
    "request_id": "RequestId",
    "blocked": "Blocked",
    "type": "Type",
    "min_credit": "MinCredit",
    "no_min_credit": "NoMinCredit",
    "tariff_plan_id": "TariffPlanId",
    "no_tariff_plan": "NoTariffPlan",
    "reset_day_of_the_month": "ResetDayOfTheMonth",
}


def descriptor(**given: str | Quantity | Time | None) -> dict[str, Any]:
    """The call descriptor. What is None or empty is left out."""
    return {_FIELDS[name]: value for name, value in given.items() if value is not None and value != ""}


class Calls:
    """Those of a client that waits."""

    def call(
        self, method: str, descriptor: Mapping[str, Any] | None = None, *, timeout_s: float | None = None
    ) -> Any:
        """Of the class that these are mixed into."""
        raise NotImplementedError

    def get_cost(
        self,
        *,
        tenant: str,
        subject: str,
        destination: str,
        start: Time,
        end: Time,
        tor: int = 0,
        timeout_s: float | None = None,
    ) -> CallCost:
        """What a call costs, span by span."""
        fields = descriptor(
            tenant=tenant, subject=subject, destination=destination, start=start, end=end, tor=tor
        )
        result: CallCost = self.call("GetCost", fields, timeout_s=timeout_s)
        return result

    def explain(
        self,
        *,
        tenant: str,
        subject: str,
        destination: str,
        start: Time | None = None,
        end: Time | None = None,
        amount: Quantity | None = None,
        tor: int = 0,
        timeout_s: float | None = None,
    ) -> Explanation:
        """Why it costs that, and how long the subscriber may talk."""
        fields = descriptor(
            tenant=tenant,
            subject=subject,
            destination=destination,
            start=start,
            end=end,
            amount=amount,
            tor=tor,
        )
        result: Explanation = self.call("Explain", fields, timeout_s=timeout_s)
        return result

    def get_max_session_time(
        self,
        *,
        tenant: str,
        subject: str,
        destination: str,
        amount: Quantity,
        tor: int = 0,
        timeout_s: float | None = None,
    ) -> Number:
        """Seconds that the subscriber may talk from now, of the `amount` asked for."""
        fields = descriptor(tenant=tenant, subject=subject, destination=destination, amount=amount, tor=tor)
        result: Number = self.call("GetMaxSessionTime", fields, timeout_s=timeout_s)
        return result

    def debit_balance(
        self,
        *,
        tenant: str,
        subject: str,
        amount: Quantity,
        destination: str = "",
        tor: int = 0,
        request_id: str | None = None,
        timeout_s: float | None = None,
    ) -> Number:
        """Takes cents. The credit that is left."""
        fields = descriptor(
            tenant=tenant,
            subject=subject,
            amount=amount,
            destination=destination,
            tor=tor,
            request_id=request_id,
        )
        result: Number = self.call("DebitBalance", fields, timeout_s=timeout_s)
        return result

    def debit_sms(
        self,
        *,
        tenant: str,
        subject: str,
        amount: Quantity,
        destination: str = "",
        tor: int = 0,
        request_id: str | None = None,
        timeout_s: float | None = None,
    ) -> Number:
        """Takes SMS units. Those that are left."""
        fields = descriptor(
            tenant=tenant,
            subject=subject,
            amount=amount,
            destination=destination,
            tor=tor,
            request_id=request_id,
        )
        result: Number = self.call("DebitSMS", fields, timeout_s=timeout_s)
        return result

    def debit_seconds(
        self,
        *,
        tenant: str,
        subject: str,
        destination: str,
        amount: Quantity,
        tor: int = 0,
        request_id: str | None = None,
        timeout_s: float | None = None,
    ) -> Number:
        """Takes seconds from the minute buckets that match. Those that are left in them."""
        fields = descriptor(
            tenant=tenant,
            subject=subject,
            destination=destination,
            amount=amount,
            tor=tor,
            request_id=request_id,
        )
        result: Number = self.call("DebitSeconds", fields, timeout_s=timeout_s)
        return result

    def add_volume_discount_seconds(
        self,
        *,
        tenant: str,
        subject: str,
        amount: Quantity,
        destination: str = "",
        tor: int = 0,
        request_id: str | None = None,
        timeout_s: float | None = None,
    ) -> Number:
        """Counts placed seconds. The counter."""
        fields = descriptor(
            tenant=tenant,
            subject=subject,
            amount=amount,
            destination=destination,
            tor=tor,
            request_id=request_id,
        )
        result: Number = self.call("AddVolumeDiscountSeconds", fields, timeout_s=timeout_s)
        return result

    def reset_volume_discount_seconds(
        self,
        *,
        tenant: str,
        subject: str,
        destination: str = "",
        tor: int = 0,
        request_id: str | None = None,
        timeout_s: float | None = None,
    ) -> Number:
        """Sets the counter of placed seconds to 0."""
        fields = descriptor(
            tenant=tenant, subject=subject, destination=destination, tor=tor, request_id=request_id
        )
        result: Number = self.call("ResetVolumeDiscountSeconds", fields, timeout_s=timeout_s)
        return result

    def add_received_call_seconds(
        self,
        *,
        tenant: str,
        subject: str,
        amount: Quantity,
        destination: str = "",
        tor: int = 0,
        request_id: str | None = None,
        timeout_s: float | None = None,
    ) -> Number:
        """Counts received seconds. The counter."""
        fields = descriptor(
            tenant=tenant,
            subject=subject,
            amount=amount,
            destination=destination,
            tor=tor,
            request_id=request_id,
        )
        result: Number = self.call("AddRecievedCallSeconds", fields, timeout_s=timeout_s)
        return result

    def reset_user_budget(
        self,
        *,
        tenant: str,
        subject: str,
        destination: str = "",
        tor: int = 0,
        request_id: str | None = None,
        timeout_s: float | None = None,
    ) -> Number:
        """Sets the budgets to the tariff plan's."""
        fields = descriptor(
            tenant=tenant, subject=subject, destination=destination, tor=tor, request_id=request_id
        )
        result: Number = self.call("ResetUserBudget", fields, timeout_s=timeout_s)
        return result

    def account(
        self,
        *,
        tenant: str,
        subject: str,
        tor: int = 0,
        timeout_s: float | None = None,
    ) -> Account:
        """What the account holds. For operators."""
        fields = descriptor(tenant=tenant, subject=subject, tor=tor)
        result: Account = self.call("Account", fields, timeout_s=timeout_s)
        return result

    def history(
        self,
        *,
        tenant: str,
        subject: str,
        amount: Quantity | None = None,
        tor: int = 0,
        timeout_s: float | None = None,
    ) -> History:
        """The last changes of the account, `amount` of them. For operators."""
        fields = descriptor(tenant=tenant, subject=subject, amount=amount, tor=tor)
        result: History = self.call("History", fields, timeout_s=timeout_s)
        return result

    def set_terms(
        self,
        *,
        tenant: str,
        subject: str,
        blocked: bool | None = None,
        type: AccountType | None = None,
        min_credit: Quantity | None = None,
        no_min_credit: bool | None = None,
        tariff_plan_id: str | None = None,
        no_tariff_plan: bool | None = None,
        reset_day_of_the_month: int | None = None,
        tor: int = 0,
        request_id: str | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Blocks or unblocks, sets what else is given. 1 when something has changed. For operators."""
        fields = descriptor(
            tenant=tenant,
            subject=subject,
            blocked=blocked,
            type=type,
            min_credit=min_credit,
            no_min_credit=no_min_credit,
            tariff_plan_id=tariff_plan_id,
            no_tariff_plan=no_tariff_plan,
            reset_day_of_the_month=reset_day_of_the_month,
            tor=tor,
            request_id=request_id,
        )
        result: int = self.call("SetTerms", fields, timeout_s=timeout_s)
        return result
