"""A balancer as the simulated world has it: it does with a Dispatch what `balancer.router` does."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from balancer.actions import Action, Answer, Request, Send, SendDrained
from common.wire import HEARTBEAT_MS, WorkItem
from tests.simulation.network import MS, Link
from tests.simulation.watched import Watched

if TYPE_CHECKING:
    from tests.simulation.rater import Rater
    from tests.simulation.world import World

TICK_US: Final = 50 * MS
PROBE_US: Final = 10 * MS
FRAME_ITEMS: Final = 20
"""A batch larger than this goes out as several messages, of which the first may be the last."""


class Balancer:
    """One life of a balancer's process."""

    def __init__(self, world: World, life: int) -> None:
        self.world = world
        self.id = f"b{life}"
        self.alive = True
        self.closing = False
        self.clock_offset_us = world.below(10**9)
        self.stalled_until_us = 0
        self.watched = Watched(world.new_dispatch(world.weather.settings), world.weather.settings)
        self.links: dict[bytes, Link] = {}
        self._inbox: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._flushing = False
        self._next_beat_us = 0
        world.at(world.below(TICK_US), self._tick)

    @property
    def clock_us(self) -> int:
        return self.world.now_us + self.clock_offset_us

    # --- for clients and raters ------------------------------------------------------------------

    def submit(self, params: bytes, client_key: str, on_answer: Callable[[int, bytes, bool], None]) -> None:
        self._take(self._submit, params, client_key, on_answer)

    def receive(self, kind: str, link: Link, rater: Rater, *fields: Any) -> None:
        self._take(self._handle, kind, link, rater, *fields)

    def notice_disconnect(self) -> None:
        """Some connection ended, nobody says whose."""
        if self.alive:
            self.world.at(PROBE_US, self._take, self._beat)

    def _take(self, handle: Callable[..., None], *arguments: Any) -> None:
        if not self.alive:
            return
        if self.stalled_until_us > self.world.now_us or self._inbox:
            self._inbox.append((handle, arguments))
        else:
            handle(*arguments)
            self._flush_soon()

    # --- what it does ----------------------------------------------------------------------------

    def _submit(self, params: bytes, client_key: str, on_answer: Callable[[int, bytes, bool], None]) -> None:
        request = Request("DebitBalance", params, client_key, on_answer)
        refusal = self.watched.submit(request, self.clock_us)
        if refusal is not None:
            on_answer(refusal.code, refusal.body, refusal.replayed)

    def _handle(self, kind: str, link: Link, rater: Rater, *fields: Any) -> None:
        world, watched, now_us = self.world, self.watched, self.clock_us
        world.note(self.id, kind, rater.id, fields)
        if kind == "state":
            if watched.state(rater.id, rater.name, *fields, now_us):
                self._send(link, "beat")
        elif kind == "done":
            if fields[0] == self.id:
                self._perform(watched.replies(rater.id, fields[1], now_us))
        elif kind == "leave":
            self._perform(watched.leave(rater.id, now_us))
        else:
            self._perform(watched.goodbye(rater.id, now_us))

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self.world.at(0, self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self.alive:
            self._perform(self.watched.flush(self.clock_us))

    def _tick(self) -> None:
        if not self.alive:
            return
        world = self.world
        if self.stalled_until_us > world.now_us:
            world.at_time(self.stalled_until_us, self._tick)
            return
        world.at(TICK_US, self._tick)
        while self._inbox:  # what arrived while this process was held up counts first
            handle, arguments = self._inbox.popleft()
            handle(*arguments)
        self._perform(self.watched.tick(self.clock_us))
        if world.now_us >= self._next_beat_us:
            self._next_beat_us = world.now_us + HEARTBEAT_MS * MS
            self._beat()
        self._flush()

    def _beat(self) -> None:
        for rater_id in self.watched.dispatch.rater_ids():
            self._send(self.links[rater_id], "beat")

    def _perform(self, actions: list[Any] | list[Action]) -> None:
        for action in actions:
            if type(action) is Answer:
                self._answer(action)
            elif type(action) is Send:
                link, items = self.links[action.rater_id], action.items
                while items and self._send(link, "work", items[:FRAME_ITEMS], unsent=items):
                    items = items[FRAME_ITEMS:]
            elif type(action) is SendDrained:
                self._send(self.links[action.rater_id], "drained")

    def _answer(self, answer: Answer) -> None:
        request = answer.request
        self.world.note(self.id, "answers", request.seq, answer.code)
        self.world.book.answered(self.id, request, answer.code, answer.body)
        request.on_answer(answer.code, answer.body, answer.replayed)

    def _send(
        self, link: Link, kind: str, items: list[WorkItem] | None = None, unsent: list[WorkItem] | None = None
    ) -> bool:
        """Whether it could be sent; if not, the rater is out."""
        rater = link.rater
        if link.routable and not link.to_rater.full:
            self.world.note(self.id, kind, rater.id, [item.seq for item in items or ()])
            link.to_rater.send(rater.receive, kind, link, self.clock_us, items)
            return True
        self.world.note(self.id, "lost", rater.id, [item.seq for item in unsent or ()])
        lost = [item.seq for item in unsent or ()]
        self._perform(self.watched.lost(rater.id, lost, self.clock_us, dead=not link.routable))
        self._flush_soon()
        return False

    # --- its end -----------------------------------------------------------------------------------

    def close(self) -> None:
        """Refuse new requests, answer those that are here, end."""
        self.closing = True
        self.watched.dispatch.close()
        self._end_when_done()

    def _end_when_done(self) -> None:
        if self.alive and (self.watched.open or self._inbox):
            self.world.at(TICK_US, self._end_when_done)
        else:
            self.kill()

    def kill(self) -> None:
        if not self.alive:
            return
        self.alive = False
        for link in self.links.values():
            link.cut()
        self.world.balancer_died(self)
