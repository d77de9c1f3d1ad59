"""A tariff as carriers have it, of any size: rates for all countries and their operators. Pure.

Every country has a price, its operators have prices for the blocks of numbers that they own, and
blocks come in runs that follow each other: `4915`, `49151` to `49157`, `491511` to `491519`. A few
thousand price lists are used over and over. The tenant's `*any` has two thirds of the rates; three
subjects with prices of their own share the rest, for some of the same prefixes. Everything follows
from `SEED`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

TENANT: Final = "world"
SUBJECTS: Final = {"*any": 0.67, "retail": 0.15, "wholesale": 0.12, "roaming": 0.06}
"""Share of the rates."""

SEED: Final = 2012
ANY: Final = "*any"

_CODES_TEXT: Final = (
    "1 7 20 27 30 31 32 33 34 36 39 40 41 43 44 45 46 47 48 49 51 52 53 54 55 56 57 58 60 61 62 63 64 "
    "65 66 81 82 84 86 90 91 92 93 94 95 98 211 212 213 216 218 220 221 222 223 224 225 226 227 228 229 "
    "230 231 232 233 234 235 236 237 238 239 240 241 242 243 244 245 248 249 250 251 252 253 254 255 "
    "256 257 258 260 261 262 263 264 265 266 267 268 269 297 298 299 350 351 352 353 354 355 356 357 "
    "358 359 370 371 372 373 374 375 376 377 378 380 381 382 385 386 387 389 420 421 423 500 501 502 "
    "503 504 505 506 507 508 509 590 591 592 593 594 595 596 597 598 599 670 672 673 674 675 676 677 "
    "678 679 680 682 685 687 689 691 692 850 852 853 855 856 880 886 960 961 962 963 964 965 966 967 "
    "968 970 971 972 973 974 975 976 977 992 993 994 995 996 998 "
)
COUNTRY_CODES: Final = tuple(_CODES_TEXT.split())


class World(NamedTuple):
    prefixes: int
    """Rates of all subjects together."""
    definitions: int = 3000
    """Different price lists."""
    shift: int = 0
    """Thousandths of a cent that prices are higher by in another version."""


class Row(NamedTuple):
    subject: str
    prefix: str
    definition: int


def prefixes(count: int) -> Iterator[tuple[str, int]]:
    """Different prefixes, each with the number of the run of blocks that it is from."""
    chance = random.Random(SEED)
    seen: set[str] = set()
    run = 0
    codes = list(COUNTRY_CODES)
    weights = [1 / (1 + chance.randrange(60)) for _ in codes]
    for code in codes[:count]:
        seen.add(code)
        yield code, run
        run += 1
    while len(seen) < count:
        [code] = chance.choices(codes, weights)
        head = code + "".join(chance.choices("0123456789", k=chance.choice((1, 2, 2, 3, 3, 3, 4, 4))))
        depth = chance.choice((0, 1, 1, 2, 2, 3))
        first = chance.randrange(10**depth)
        length = chance.randrange(1, 10**depth - first + 1)
        run += 1
        for block in range(first, first + min(length, 400)):
            prefix = head + (f"{block:0{depth}}" if depth else "")
            if prefix not in seen and len(seen) < count:
                seen.add(prefix)
                yield prefix, run


def rows(world: World) -> Iterator[Row]:
    """The rates, subject by subject."""
    counts = {subject: int(share * world.prefixes) for subject, share in SUBJECTS.items()}
    counts[ANY] += world.prefixes - sum(counts.values())
    for place, (subject, count) in enumerate(counts.items()):
        for prefix, run in prefixes(count):
            yield Row(subject, prefix, (run * 7 + place * 131) % world.definitions)


def price(definition: int, shift: int = 0) -> int:
    """Thousandths of a cent a second, in the peak; at other times it is half of it."""
    return 2 + 2 * (definition * 37 % 5000) + 2 * shift


def periods(definition: int, shift: int = 0) -> list[dict[str, Any]]:
    """The activation periods of a rate."""
    peak = price(definition, shift)

    def interval(thousandths: int, **more: Any) -> dict[str, Any]:
        return {**more, "Price": thousandths * 60 / 1000, "BillingUnit": 60}

    flat = [interval(peak)]
    by_day = [
        interval(peak // 2, WeekDays=[1, 2, 3, 4, 5], StartTime="", EndTime="08:00:00"),
        interval(peak, WeekDays=[1, 2, 3, 4, 5], StartTime="08:00:00", EndTime="20:00:00"),
        interval(peak // 2, WeekDays=[1, 2, 3, 4, 5], StartTime="20:00:00", EndTime=""),
        interval(peak // 2, WeekDays=[6, 0]),
    ]
    intervals = flat if definition % 3 else by_day
    found = [{"ActivationTime": "2012-01-01T00:00:00Z", "Intervals": intervals}]
    if definition % 10 == 0:
        found.append({"ActivationTime": "2020-01-01T00:00:00Z", "Intervals": flat})
    return found


def rate_lines(world: World) -> Iterator[str]:
    """The file of rates, piece by piece."""
    texts = [json.dumps(periods(number, world.shift)) for number in range(world.definitions)]
    opening = "[\n"
    for subject, prefix, definition in rows(world):
        yield (
            f'{opening}{{"CstmId":"{TENANT}","Subject":"{subject}","DestinationPrefix":"{prefix}",'
            f'"ActivationPeriods":{texts[definition]}}}'
        )
        opening = ",\n"
    yield "\n]\n"


def destinations(world: World) -> list[dict[str, Any]]:
    """A set of prefixes for each country's operators, some for several countries."""
    sets: dict[str, list[str]] = {}
    for prefix, _ in prefixes(max(1, world.prefixes // 20)):
        code = next(prefix[:n] for n in (3, 2, 1) if prefix[:n] in _CODES)
        sets.setdefault(f"country-{code}", []).append(prefix)
        sets.setdefault(f"zone-{code[0]}", []).append(prefix)
    return [{"CstmId": TENANT, "Id": name, "Prefixes": found} for name, found in sets.items()]


_CODES: Final = frozenset(COUNTRY_CODES)

PLANS: Final = [
    {
        "CstmId": TENANT,
        "Id": f"plan-{number}",
        "SmsCredit": 100,
        "MinuteBuckets": [{"Seconds": 6000, "Priority": 10, "Price": 0, "DestinationId": "zone-4"}],
    }
    for number in range(20)
]


def account_name(number: int) -> str:
    return f"407{number:09}"


def account_lines(count: int) -> Iterator[str]:
    """The file of user budgets, piece by piece."""
    bucket = '[{"Seconds":6000,"Priority":10,"Price":0,"DestinationId":"zone-4"}]'
    opening = "[\n"
    for number in range(count):
        credit = f"{number % 5000}.{number % 97:02}"
        yield (
            f'{opening}{{"CstmId":"{TENANT}","Id":"{account_name(number)}","Credit":{credit},"SmsCredit":100,'
            f'"TariffPlanId":"plan-{number % 20}","MinuteBuckets":{bucket}}}'
        )
        opening = ",\n"
    yield "\n]\n"
