"""Failures of the store by kind."""

from __future__ import annotations

import pytest
import redis
from redis.exceptions import ResponseError

from common.errors import StoreUnavailable
from rater.work.store_failures import KINDS, StoreFailures


def counted(failures: StoreFailures) -> dict[str, int]:
    return {kind: count for kind, count in failures.counts.items() if count}


def test_every_kind_is_there_from_the_beginning() -> None:
    failures = StoreFailures()
    assert set(failures.counts) == set(KINDS)
    assert counted(failures) == {}


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (TimeoutError(), "timeout"),
        (BlockingIOError(), "timeout"),
        (redis.TimeoutError(), "timeout"),
        (ConnectionResetError(), "connection_lost"),
        (redis.ConnectionError("refused"), "connection_lost"),
        (None, "connection_lost"),
    ],
)
def test_no_answer_and_no_connection(cause: BaseException | None, kind: str) -> None:
    failures = StoreFailures()
    try:
        raise StoreUnavailable(detail="away") from cause
    except StoreUnavailable as error:
        failures.unavailable(error)
    assert counted(failures) == {kind: 1}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", "oom"),
        ("READONLY You can't write against a read only replica.", "readonly"),
        ("LOADING the dataset is in memory", "loading"),
        ("NODELOST no answer", "nodelost"),
        ("ERR the account holds something else", "other"),
        ("someone's 0721234567 own words", "other"),
        ("", "other"),
    ],
)
def test_refusals_by_their_first_word(text: str, kind: str) -> None:
    failures = StoreFailures()
    failures.refused(ResponseError(text))
    assert counted(failures) == {kind: 1}
