"""The short way for rates and budgets that are plainly right; whatever is not goes the careful way.

A price list says a few thousand things a million times. So the bytes of a rate's `ActivationPeriods`,
and of a budget's `MinuteBuckets`, are read once by the careful way, and looked up after that, if
nothing was found wrong or odd in them. The few fields around them are decoded by type. None comes
back when anything but the plainest is there: an unknown, misspelt or doubled field, a null, a name
that is too long. So nothing is reported from here, and what comes back is what the careful way would
have made of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, TypeVar

import msgspec
from msgspec import UNSET, Raw, UnsetType

from common.money import LIMIT
from rater.loader.fields import MAX_NAME_CHARS, Fields, JsonNumber, Shape, Source, exact_micros
from rater.loader.plans import BUDGET, read_buckets
from rater.loader.rates import MAX_TOR, RATE, known_timezone, read_periods
from rater.loader.report import Report
from rater.loader.strict_json import loads
from rater.model import Account, ActivationPeriod, Bucket, Rate

T = TypeVar("T")

MAX_KNOWN_BYTES: Final = 64 << 20
"""Of texts that are kept. A price list with more different ones than that is read the careful way."""

MAX_KNOWN_NUMBERS: Final = 1 << 16

_QUOTE: Final = b'"'
_NUMBER_BEGINS: Final = frozenset(b"-0123456789")


class _Rate(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    CstmId: str
    Subject: str
    DestinationPrefix: str
    ActivationPeriods: Raw
    TOR: int | UnsetType = UNSET
    Timezone: str | UnsetType = UNSET
    RateIncrement: Raw | UnsetType = UNSET


class _Budget(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    Id: str
    TariffPlanId: str | UnsetType = UNSET
    CstmId: str | UnsetType = UNSET
    Type: str | UnsetType = UNSET
    ResetDayOfTheMonth: int | UnsetType = UNSET
    Credit: Raw | UnsetType = UNSET
    MinCredit: Raw | UnsetType = UNSET
    SmsCredit: Raw | UnsetType = UNSET
    Traffic: Raw | UnsetType = UNSET
    VolumeDiscountSeconds: Raw | UnsetType = UNSET
    ReceivedCallSeconds: Raw | UnsetType = UNSET
    MinuteBuckets: Raw | UnsetType = UNSET


_TEXTS: Final = ("TariffPlanId", "CstmId", "Type")
_BUDGETS_OWN: Final = (
    "Credit",
    "MinCredit",
    "VolumeDiscountSeconds",
    "ReceivedCallSeconds",
    "ResetDayOfTheMonth",
    "TariffPlanId",
)
"""Without one of these an object may be of another kind, see `rater.loader.kinds`."""


class _Known(Generic[T]):
    """Values of texts that were read before; None for those in which something was wrong or odd."""

    def __init__(self, shape: Shape, read: Callable[[Fields], T]) -> None:
        self._shape = shape
        self._read = read
        self._found: dict[bytes, T | None] = {}
        self._bytes = 0

    def get(self, text: bytes) -> T | None:
        """Of the text of an object."""
        try:
            return self._found[text]
        except KeyError:
            pass
        if self._bytes > MAX_KNOWN_BYTES:
            return None
        value = self._found[text] = self._read_alone(text)
        self._bytes += len(text)
        return value

    def _read_alone(self, text: bytes) -> T | None:
        report = Report()
        try:
            values = loads(text.decode())
        except (ValueError, RecursionError):
            return None
        value = self._read(Fields(values, self._shape, Source("", report), "", line=0))
        return None if report.error_count or report.warning_count else value


class Quick:
    """Reads objects of one load. Equal names become one text."""

    def __init__(self) -> None:
        self._decode_rate = msgspec.json.Decoder(_Rate).decode
        self._decode_budget = msgspec.json.Decoder(_Budget).decode
        self._periods: _Known[tuple[ActivationPeriod, ...]] = _Known(RATE, read_periods)
        self._buckets: _Known[tuple[Bucket, ...]] = _Known(BUDGET, read_buckets)
        self._names: dict[str, str] = {}
        self._micros: dict[bytes, int | None] = {}

    def rate(self, text: bytes) -> tuple[str, Rate] | None:
        """The tenant and the rate."""
        try:
            found = self._decode_rate(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        periods = bytes(found.ActivationPeriods)
        quotes, tor, zone = 14, 0, "UTC"  # of four names and three texts
        whole = periods
        if found.TOR is not UNSET:
            quotes, tor = quotes + 2, found.TOR
        if found.Timezone is not UNSET:
            quotes, zone = quotes + 4, found.Timezone or "UTC"
        if found.RateIncrement is not UNSET:
            quotes += 2
            whole += b',"RateIncrement":' + bytes(found.RateIncrement)
        if (
            # A name that is there twice has quotes of its own; so has an escaped quote, which is rare.
            text.count(_QUOTE) != quotes + periods.count(_QUOTE)
            or not 0 < len(found.CstmId) <= MAX_NAME_CHARS
            or not 0 < len(found.Subject) <= MAX_NAME_CHARS
            or not 0 < len(found.DestinationPrefix) <= MAX_NAME_CHARS
            or not -MAX_TOR <= tor <= MAX_TOR
            or not known_timezone(zone)
        ):
            return None
        known = self._periods.get(b'{"ActivationPeriods":' + whole + b"}")
        if known is None:
            return None
        name = self._name
        return name(found.CstmId), Rate(tor, name(found.Subject), found.DestinationPrefix, name(zone), known)

    def budget(self, text: bytes) -> tuple[str, Account] | None:
        """The tenant, "" for none, and the account."""
        try:
            found = self._decode_budget(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        buckets: tuple[Bucket, ...] | None = ()
        quotes = 2
        if found.MinuteBuckets is not UNSET:
            of_buckets = bytes(found.MinuteBuckets)
            quotes += of_buckets.count(_QUOTE)
            buckets = self._buckets.get(b'{"MinuteBuckets":' + of_buckets + b"}")
        given = [name for name in _Budget.__struct_fields__ if getattr(found, name) is not UNSET]
        quotes += 2 * len(given) + 2 * sum(name in _TEXTS for name in given)
        if (
            buckets is None
            or text.count(_QUOTE) != quotes
            or not any(name in _BUDGETS_OWN for name in given)
            or not 0 < len(found.Id) <= MAX_NAME_CHARS
        ):
            return None
        return self._account(found, buckets)

    def _account(self, found: _Budget, buckets: tuple[Bucket, ...]) -> tuple[str, Account] | None:
        tenant, plan = found.CstmId or "", found.TariffPlanId or ""
        kind, day = found.Type or "prepaid", found.ResetDayOfTheMonth or 0
        credit, floor = self._number(found.Credit), self._number(found.MinCredit)
        counts = [
            self._number(each)
            for each in (
                found.SmsCredit,
                found.Traffic,
                found.VolumeDiscountSeconds,
                found.ReceivedCallSeconds,
            )
        ]
        if (
            max(len(tenant), len(plan)) > MAX_NAME_CHARS
            or kind not in ("prepaid", "postpaid")
            or not 0 <= day <= 31
            or credit is None
            or floor is None
            or not all(count is not None and count >= 0 for count in counts)
        ):
            return None
        sms, traffic, discount, received = (count or 0 for count in counts)
        return self._name(tenant), Account(
            found.Id, credit, sms, traffic, discount, received, day, self._name(plan), kind == "postpaid",
            None if found.MinCredit is UNSET else floor, buckets,
        )  # fmt: skip

    def _name(self, name: str) -> str:
        return self._names.setdefault(name, name)

    def _number(self, raw: Raw | UnsetType) -> int | None:
        """Millionths, 0 when absent; None where the careful way has to look."""
        if raw is UNSET:
            return 0
        text = bytes(raw)
        try:
            return self._micros[text]
        except KeyError:
            pass
        if len(self._micros) >= MAX_KNOWN_NUMBERS:
            self._micros.clear()
        micros = self._micros[text] = _micros(text)
        return micros


def _micros(text: bytes) -> int | None:
    if text[0] not in _NUMBER_BEGINS:
        return None
    try:
        micros = exact_micros(int(text) if text.removeprefix(b"-").isdigit() else JsonNumber(text.decode()))
    except ValueError:
        return None
    return micros if abs(micros) <= LIMIT else None
