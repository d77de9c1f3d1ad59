"""Tariff files through the loader, the store's format, and into the rating engine; damaged versions."""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from functools import cache
from itertools import islice
from typing import Any, Final

import msgspec

from common.errors import CallTooLong, NoRate, NotActive, TariffUnreadable
from common.money import LIMIT
from common.storage.store import Command
from common.times import DAY_US, MAX_INSTANT_US, MIN_INSTANT_US, SECOND_US
from rater.accounts.opening import open_command
from rater.descriptor import Descriptor
from rater.loader.assembly import TenantLoad
from rater.model import DAY_S, Account, Tariff
from rater.rating.call_cost import encode_call_cost
from rater.rating.quote import get_cost
from rater.rating.session_time import max_session_us
from rater.rating.snapshot import CompiledTariff, compile_in_steps, compile_tariff
from rater.rating.spans import Call, rate_call
from rater.store.keys import account_keys, tariff_chunk_key, tariff_key
from rater.tariffs.store import publish, read_index, read_version
from tests.unit.tariff_sample import BUDGETS, DESTINATIONS, PLANS, RATES, FakeActive, read, sample_files

FILES: Final = (RATES, DESTINATIONS, PLANS, BUDGETS)
MAX_CALLS: Final = 4
"""Rates of a tariff that are tried."""

_FINDING: Final = re.compile(
    rf"(?:{'|'.join(map(re.escape, FILES))}|the active tariff)[^:]*?.*: .+", re.DOTALL
)


class FakeStore:
    """As much of a store as `rater.tariffs.store` needs, in a dictionary of words and hashes."""

    def __init__(self) -> None:
        self.words: dict[str, bytes] = {}
        self.hashes: dict[str, dict[bytes, bytes]] = {}

    number = 1
    unread = 0

    def send(self, commands: list[Command]) -> list[Any]:
        return self.execute(commands)

    def receive(self, replies: list[Any]) -> list[Any]:
        return replies

    def execute(self, commands: list[Command]) -> list[Any]:
        return [getattr(self, str(name).lower())(*arguments) for name, *arguments in commands]

    def get(self, key: str) -> bytes | None:
        return self.words.get(key)

    def set(self, key: str, value: bytes) -> None:
        self.words[key] = value

    def incr(self, key: str) -> int:
        return 1

    def hset(self, key: str, *words: str | int) -> None:
        encoded = [str(word).encode() for word in words]
        self.hashes[key] = dict(zip(encoded[::2], encoded[1::2], strict=True))

    def hget(self, key: str, field: str) -> bytes | None:
        return self.hashes.get(key, {}).get(field.encode())

    def hgetall(self, key: str) -> list[bytes]:
        return [word for pair in self.hashes.get(key, {}).items() for word in pair]

    def eval(self, *words: object) -> list[int]:
        return [1, 1]


def _published(tariff: Tariff) -> Any:
    store: Any = FakeStore()
    publish(store, [tariff], {}, {"sources": "x"})
    return store


def load_files(data: bytes) -> None:
    """The first byte says what the file is called that the rest is; the sample tariff is active."""
    if not data:
        return
    files = {FILES[data[0] % len(FILES)]: data[1:]}
    active = FakeActive({"vdf": sample_tariff()})
    loads, report = read(files, active=active)
    for line in (*report.errors, *report.warnings):
        assert _FINDING.fullmatch(line), line
        assert line.isprintable(), line
        line.encode()
    if report.error_count:
        assert report.errors
        return
    for load in loads:
        use(load)


def use(load: TenantLoad) -> None:
    """What was let through is published, read back, compiled, rated by, and its accounts are opened."""
    for account in load.accounts:
        assert 0 <= account.reset_day <= 31
        _check_integers(account)
        open_command(account_keys(load.tenant, account.subject), account, replace=True)
    tariff = load.tariff or sample_tariff()
    _check_integers(tariff)
    for rate in tariff.rates:
        assert rate.periods
        for interval in (interval for period in rate.periods for interval in period.intervals):
            assert 0 <= interval.month <= 12
            assert 0 <= interval.month_day <= 31
            assert set(interval.week_days) <= set(range(7))
            assert 0 <= interval.start_s < interval.end_s <= DAY_S
            assert interval.billing_unit_us >= 1
    published = _published(tariff)
    assert read_version(published, tariff.tenant, 1) == tariff
    compiled = _compile(published, tariff.tenant)
    for rate in tariff.rates[:MAX_CALLS]:
        account = next((each for each in load.accounts if each.subject == rate.subject), None)
        for period in (*rate.periods[:2], rate.periods[-1]):
            for start_us in (period.activation_us, period.activation_us + 12_345 * SECOND_US):
                _rate(compiled, Call(rate.tor, load.tenant, rate.subject, rate.prefix, start_us, 0), account)
    for destination in tariff.destinations[:MAX_CALLS]:
        for prefix in destination.prefixes[:MAX_CALLS]:
            assert destination.id in dict(compiled.matching_destinations(prefix + "1"))


def _compile(store: Any, tenant: str) -> CompiledTariff:
    """As raters do."""
    steps = compile_in_steps(tenant, read_index(store, tenant, 1), DAY_US)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            compiled: CompiledTariff = end.value
            return compiled


def _check_integers(value: Any) -> None:
    """Numbers in tariffs and accounts are integers that a double holds exactly, too; instants aside."""
    values = msgspec.to_builtins(value)
    while values:
        rest = []
        for each in values:
            assert not isinstance(each, float)
            if isinstance(each, int):
                assert abs(each) <= max(LIMIT, MAX_INSTANT_US, -MIN_INSTANT_US)
            elif isinstance(each, list | tuple):
                rest += each
        values = rest


def _rate(compiled: CompiledTariff, call: Call, account: Account | None) -> None:
    end_us = min(call.start_us + 3600 * SECOND_US, MAX_INSTANT_US)
    if end_us <= call.start_us:
        return
    for whose in (None, account):
        try:
            cost = rate_call(compiled, call._replace(end_us=end_us), whose)
            granted_us = max_session_us(compiled, call, call.start_us, end_us - call.start_us, whose)
        except (NoRate, NotActive, CallTooLong):
            continue
        assert 0 <= granted_us <= end_us - call.start_us
        assert sum(span.cost_micros for span in cost.spans) == cost.cost_micros >= 0
        edges = [(span.start_us, span.end_us) for span in cost.spans]
        assert edges[0][0] == call.start_us
        assert edges[-1][1] == end_us
        assert all(a[1] == b[0] for a, b in zip(edges, islice(edges, 1, None), strict=False))
        text = encode_call_cost(cost)
        json.loads(text)
        asked = Descriptor(
            call.tor, call.tenant, call.subject, call.destination, call.start_us, end_us, 0, ""
        )
        assert get_cost(compiled, asked, whose) == text


# --- damaged versions -------------------------------------------------------------------------------


@cache
def sample_tariff() -> Tariff:
    [load], report = read(sample_files())
    assert not report.error_count
    assert load.tariff is not None
    return load.tariff


def read_damaged_version(data: bytes) -> None:
    """A version in the store, one value of which is damaged: by TariffUnreadable it is never used.

    The first byte says what is damaged, the second where; the rest is put in its place.
    """
    if len(data) < 3:
        return
    tariff = sample_tariff()
    store = _published(tariff)
    metadata = store.hashes[tariff_key(tariff.tenant, 1)]
    chunks = [tariff_chunk_key(tariff.tenant, 1, number) for number in range(int(metadata[b"chunks"]))]
    what, where, new = data[0], data[1], data[2:]
    key = chunks[what // 8 % len(chunks)]
    is_forged = False
    match what % 8:
        case 0:
            fields = sorted(metadata)
            metadata[fields[where % len(fields)]] = new
        case 1:
            fields = sorted(metadata)
            del metadata[fields[where % len(fields)]]
        case 2:
            metadata[new] = new
        case 3:
            old = store.words[key]
            start = where * len(old) // 256
            store.words[key] = old[:start] + new + old[start + len(new) :]
        case 4:
            store.words[key] = new
        case 5:  # packed well and hashed: only its content is odd
            is_forged = True
            text = zlib.decompress(store.words[key])
            start = where * len(text) // 256
            store.words[key] = zlib.compress(text[:start] + new + text[start + len(new) :])
        case 6:
            is_forged = True
            store.words[key] = zlib.compress(new)
        case _:
            is_forged = True
            store.words[key] = new
    if is_forged:
        for name, part in ((b"sha256", chunks), (b"index_sha256", chunks[: int(metadata[b"index_chunks"])])):
            whole = b"".join(store.words[each] for each in part)
            metadata[name] = hashlib.sha256(whole).hexdigest().encode()
    _check_damaged_source(store, is_forged)
    _check_damaged_index(store, is_forged)


def _check_damaged_source(store: Any, is_forged: bool) -> None:
    tariff = sample_tariff()
    try:
        found = read_version(store, tariff.tenant, 1)
    except TariffUnreadable:
        return
    assert type(found) is Tariff
    assert is_forged or found == tariff


def _check_damaged_index(store: Any, is_forged: bool) -> None:
    tariff = sample_tariff()
    try:
        compiled = _compile(store, tariff.tenant)
    except TariffUnreadable:
        return
    except (ValueError, IndexError):
        assert is_forged  # parts that each are well made, and do not fit together
        return
    if is_forged:
        return
    expected = compile_tariff(tariff, DAY_US)
    for rate in tariff.rates:
        found, right = (each.find_rate(rate.subject, rate.prefix) for each in (compiled, expected))
        assert found is not None
        assert right is not None
        assert found.prefix == right.prefix == rate.prefix
        assert found.plan.activations_us == right.plan.activations_us
