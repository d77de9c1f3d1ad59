"""The results of the API as types, for `JSONClient.get_cost` and the other named calls.

They say what the schemas of `common/api/schemas.py` say, field for field; a test holds them to that.
Numbers are `int` where they are whole, else `decimal.Decimal`. Times are RFC 3339 texts.
"""

from decimal import Decimal
from typing import Literal, NotRequired, TypedDict

Number = int | Decimal

# --- a call cost ----------------------------------------------------------------------------------


class Interval(TypedDict):
    """The price interval that applied."""

    Month: int
    MonthDay: int
    WeekDays: list[int]
    StartTime: str
    EndTime: str
    Ponder: Number
    ConnectFee: Number
    Price: Number
    BillingUnit: Number
    RateIncrement: NotRequired[Number]


class MinuteInfo(TypedDict):
    """The minute bucket that covered a span."""

    DestinationId: str
    Quantity: Number
    Price: Number


class ActivationPeriod(TypedDict):
    ActivationTime: str


class Timespan(TypedDict):
    TimeStart: str
    TimeEnd: str
    Cost: Number
    ActivationPeriod: ActivationPeriod
    Interval: Interval | None
    MinuteInfo: MinuteInfo | None


class CallCost(TypedDict):
    """Of GetCost. Money in cents."""

    TOR: int
    CstmId: str
    Subject: str
    DestinationPrefix: str
    Cost: Number
    ConnectFee: Number
    Timespans: list[Timespan]


# --- an explanation -------------------------------------------------------------------------------


class Lookup(TypedDict):
    Subject: str
    Matched: str | None
    Used: bool
    Tried: list[str]
    ShorterMatches: list[str]
    Text: str


class ExplainedPeriod(TypedDict):
    ActivationTime: str
    InEffectAtStart: bool
    Intervals: int


class ExplainedRate(TypedDict):
    Prefix: str | None
    Lookups: list[Lookup]
    Timezone: str | None
    ActivationPeriods: list[ExplainedPeriod]


class ExplainedAccount(TypedDict):
    Type: Literal["prepaid", "postpaid"]
    Blocked: bool
    Credit: Number
    MinCredit: Number | None
    Spendable: Number | None
    TariffPlanId: str | None


class Threshold(TypedDict):
    Volume: Number
    Discount: Number
    Reached: bool


class ExplainedDiscount(TypedDict):
    VolumeDiscountSeconds: Number
    Percent: Number
    Thresholds: list[Threshold]
    Text: str


class ExplainedBucket(TypedDict):
    DestinationId: str
    Seconds: Number
    Priority: int
    Price: Number
    MatchedPrefix: str | None
    Used: Number
    Cost: Number
    Text: str


Reason = Literal[
    "lower_ponder",
    "dearer",
    "listed_later",
    "increment",
    "other_month",
    "other_month_day",
    "other_week_day",
    "other_time",
]


class Rival(TypedDict):
    Interval: Interval
    AppliesFrom: str | None
    Reason: Reason
    Text: str


class ExplainedTimespan(TypedDict):
    TimeStart: str
    TimeEnd: str
    LocalStart: str
    LocalEnd: str
    Seconds: Number
    Cost: Number
    ActivationTime: str
    Interval: Interval | None
    Bucket: str | None
    Why: str
    Arithmetic: str
    Rivals: list[Rival]
    MoreRivals: int


class Candidate(TypedDict):
    Percent: int
    Seconds: Number
    Cost: Number
    Affordable: bool


class ExplainedSession(TypedDict):
    Asked: Number
    Granted: Number | None
    Text: str
    Candidates: list[Candidate]


class Explanation(TypedDict):
    """Of Explain."""

    Verdict: Literal["ok", "no_rate", "not_active", "no_credit", "blocked"]
    Message: str
    CstmId: str
    Subject: str
    DestinationPrefix: str
    TimeStart: str
    TimeEnd: str
    Cost: Number | None
    ConnectFee: Number | None
    Rate: ExplainedRate
    Account: ExplainedAccount | None
    Discount: ExplainedDiscount | None
    Buckets: list[ExplainedBucket]
    Timespans: list[ExplainedTimespan]
    MoreTimespans: int
    MaxSessionTime: ExplainedSession


# --- an account -----------------------------------------------------------------------------------


class AccountBucket(TypedDict):
    DestinationId: str
    Seconds: Number
    Priority: int
    Price: Number


class Account(TypedDict):
    """Of Account. Money in cents."""

    CstmId: str
    Subject: str
    Type: Literal["prepaid", "postpaid"]
    Blocked: bool
    MinCredit: Number | None
    Spendable: Number | None
    Credit: Number
    SmsCredit: Number
    Traffic: Number
    VolumeDiscountSeconds: Number
    ReceivedCallSeconds: Number
    ResetDayOfTheMonth: int
    TariffPlanId: str | None
    MinuteBuckets: list[AccountBucket]
    Changes: int
    LastChange: str


class BucketAfter(TypedDict):
    DestinationId: str
    Seconds: Number


class JournalLine(TypedDict):
    """A change, and the balances after it."""

    Id: str
    Time: str
    Seq: int
    Operation: str
    Amount: Number
    Token: str
    Credit: Number
    SmsCredit: Number
    Traffic: Number
    VolumeDiscountSeconds: Number
    ReceivedCallSeconds: Number
    Cost: Number | None
    Terms: str | None
    MinuteBuckets: list[BucketAfter] | None


class Damage(TypedDict):
    field: str
    expected: str
    found: str


class DamagedLine(TypedDict):
    """An entry that is no line of a journal."""

    Id: str
    Damaged: Damage


class History(TypedDict):
    """Of History: lines, the oldest first."""

    CstmId: str
    Subject: str
    Changes: int
    Lines: list[JournalLine | DamagedLine]
