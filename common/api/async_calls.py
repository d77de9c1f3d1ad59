"""The methods of the API by name, with types, for the client of asyncio: see `common.api.calls`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.api.calls import AccountType, Quantity, Time, descriptor
from common.api.types import Account, CallCost, Explanation, History, Number


class AsyncCalls:
    """Those of a client of asyncio."""

    async def call(
        self, method: str, descriptor: Mapping[str, Any] | None = None, *, timeout_s: float | None = None
    ) -> Any:
        """Of the class that these are mixed into."""
        raise NotImplementedError

    async def get_cost(
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
        result: CallCost = await self.call("GetCost", fields, timeout_s=timeout_s)
        return result

    async def explain(
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
        result: Explanation = await self.call("Explain", fields, timeout_s=timeout_s)
        return result

    async def get_max_session_time(
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
        result: Number = await self.call("GetMaxSessionTime", fields, timeout_s=timeout_s)
        return result

    async def debit_balance(
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
        result: Number = await self.call("DebitBalance", fields, timeout_s=timeout_s)
        return result

    async def debit_sms(
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
        result: Number = await self.call("DebitSMS", fields, timeout_s=timeout_s)
        return result

    async def debit_seconds(
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
        result: Number = await self.call("DebitSeconds", fields, timeout_s=timeout_s)
        return result

    async def add_volume_discount_seconds(
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
        result: Number = await self.call("AddVolumeDiscountSeconds", fields, timeout_s=timeout_s)
        return result

    async def reset_volume_discount_seconds(
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
        result: Number = await self.call("ResetVolumeDiscountSeconds", fields, timeout_s=timeout_s)
        return result

    async def add_received_call_seconds(
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
        result: Number = await self.call("AddRecievedCallSeconds", fields, timeout_s=timeout_s)
        return result

    async def reset_user_budget(
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
        result: Number = await self.call("ResetUserBudget", fields, timeout_s=timeout_s)
        return result

    async def account(
        self,
        *,
        tenant: str,
        subject: str,
        tor: int = 0,
        timeout_s: float | None = None,
    ) -> Account:
        """What the account holds. For operators."""
        fields = descriptor(tenant=tenant, subject=subject, tor=tor)
        result: Account = await self.call("Account", fields, timeout_s=timeout_s)
        return result

    async def history(
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
        result: History = await self.call("History", fields, timeout_s=timeout_s)
        return result

    async def set_terms(
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
        result: int = await self.call("SetTerms", fields, timeout_s=timeout_s)
        return result
