"""Jobs that wait for one part of the store: for a moment, in order, and not too many."""

from __future__ import annotations

import json

from rater.work import apart
from rater.work.apart import Apart
from rater.work.jobs import Job, Outcome


class Client:
    life = "client"

    def __init__(self) -> None:
        self.told: dict[int, Outcome] = {}

    def reply(self, seq: int, outcome: Outcome) -> None:
        self.told[seq] = outcome


def jobs(client: Client, count: int) -> list[Job]:
    return [Job(client, seq, None, b"", "", 0) for seq in range(count)]


def test_they_come_back_in_their_order_after_a_pause() -> None:
    waiting, client = Apart(), Client()
    first, second = jobs(client, 2)
    assert waiting.due_us is None
    waiting.add(first, 1_000)
    waiting.add(second, 1_000)
    due_us = waiting.due_us
    assert due_us is not None
    assert due_us > 1_000
    assert waiting.due(due_us - 1) == []
    assert waiting.due(due_us) == [first]
    assert waiting.due(due_us + 1_000_000) == [second]
    assert not waiting
    assert first.attempted
    assert not client.told


def test_the_more_wait_the_less_often_they_are_tried() -> None:
    few, many = Apart(), Apart()
    client = Client()
    [lone] = jobs(client, 1)
    few.add(lone, 0)
    for each in jobs(client, 400):
        many.add(each, 0)
    pause_us = few.due_us
    assert pause_us is not None
    assert len(few.due(pause_us)) == 1
    assert len(many.due(pause_us)) < 5


def test_beyond_the_bound_they_are_told_that_the_outcome_is_unknown() -> None:
    waiting, client = Apart(), Client()
    for each in jobs(client, apart.MAX_JOBS + 1):
        waiting.add(each, 0)
    assert len(waiting) == apart.MAX_JOBS
    assert [*client.told] == [apart.MAX_JOBS]
    error = json.loads(client.told[apart.MAX_JOBS].body)
    assert error["name"] == "store_unavailable"
    assert "unknown" in error["message"]
