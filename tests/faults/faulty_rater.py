"""A rater with failpoints: moments at which it dies or stalls when a test has armed them.

The program is `ratel rater` with the same arguments, and nothing of this is in it: the failpoints are
put around its functions from outside. `RATEL_TEST_POINTS` names a folder. A file in there, named after
a point, arms it for the first rater that passes; the file's text is the signal for it to send itself,
"kill" (SIGKILL) or "stop" (SIGSTOP). A request of the subject "poison" kills whoever parses it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import rater.work.request_steps
from common.storage.store import Command, Reply, Sent, StoreConnection
from rater.command import rater as rater_command
from rater.link import Link

POINTS = ("before_write", "after_write", "after_reply")
"""Around a batch that changes accounts: before it goes to the store, when the store's answers are here,
and when the replies have been handed to the network."""

_SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
_folder = Path(os.environ["RATEL_TEST_POINTS"])


def _pass(point: str) -> None:
    armed = _folder / point
    if not armed.exists():
        return
    taken = _folder / f"{point}.taken-{os.getpid()}"
    with suppress(FileNotFoundError):  # another rater was faster
        armed.rename(taken)
        os.kill(os.getpid(), _SIGNALS[taken.read_text()])


def _before_writes(
    send: Callable[[StoreConnection, Sequence[Command]], Sent],
) -> Callable[[StoreConnection, Sequence[Command]], Sent]:
    def wrapped(self: StoreConnection, commands: Sequence[Command]) -> Sent:
        if not any(command[0] == b"EVALSHA" for command in commands):
            return send(self, commands)
        _pass("before_write")
        sent = send(self, commands)
        _state.writes.add(sent)
        return sent

    return wrapped


def _after_writes(
    receive: Callable[..., list[Reply]],
) -> Callable[..., list[Reply]]:
    def wrapped(self: StoreConnection, sent: Sent, *give_up_s: float) -> list[Reply]:
        writes = sent in _state.writes
        _state.writes.discard(sent)
        replies = receive(self, sent, *give_up_s)
        if writes:
            _pass("after_write")
            _state.wrote = True
        return replies

    return wrapped


class _State:
    writes: set[Sent] = set()  # noqa: RUF012 (there is one)
    wrote = False


_state = _State()


def _after_replies(flush: Callable[..., None]) -> Callable[..., None]:
    def wrapped(self: Link, *busy_us: int) -> None:
        flush(self, *busy_us)
        if _state.wrote:
            _state.wrote = False
            _pass("after_reply")

    return wrapped


def _with_poison(parse: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(params: bytes, *rest: Any) -> Any:
        if b'"poison"' in params:
            os.kill(os.getpid(), signal.SIGKILL)
        return parse(params, *rest)

    return wrapped


def main() -> None:
    StoreConnection.send = _before_writes(StoreConnection.send)  # type: ignore[method-assign]
    StoreConnection.receive = _after_writes(StoreConnection.receive)  # type: ignore[method-assign]
    Link.flush = _after_replies(Link.flush)  # type: ignore[method-assign]
    steps = rater.work.request_steps
    steps.parse_descriptor = _with_poison(steps.parse_descriptor)  # type: ignore[assignment]
    rater_command()


if __name__ == "__main__":
    main()
