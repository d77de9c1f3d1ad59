"""The messages between a balancer and its raters: one msgpack array in one ZeroMQ frame.

| kind | direction | fields after the kind |
| --- | --- | --- |
| WORK | balancer → rater | balancer id, sender's clock (µs), list of work items |
| BEAT | balancer → rater | balancer id, sender's clock (µs) |
| DRAINED | balancer → rater | balancer id: nothing more will come, answer to LEAVE |
| STATE | rater → balancer | protocol, name, credit, tariff epoch: sent on joining and as heartbeat |
| DONE | rater → balancer | id of the balancer that asked, list of replies |
| LEAVE | rater → balancer | – : send no more work |
| GOODBYE | rater → balancer | – : everything is answered, forget me |

A work item is (sequence number, method name, params as JSON text, client key or "", deadline on
the balancer's clock in µs). A reply is (sequence number, error code or 0, JSON text, replayed).
The clock is the balancer's monotonic clock; a rater compares deadlines with the least difference
to its own clock that it has seen (`rater.link`), so clock jumps do not matter.
A balancer's id is new with each start, and sequence numbers begin anew: DONE names the id, so that
a restarted balancer never takes an answer to its predecessor's request for one to its own.
A mutation's token is made of balancer id and sequence number, unless the client gave a key.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final, NamedTuple, cast

import msgspec

PROTOCOL: Final = 1
"""Raised when a message changes shape; a balancer turns raters of another protocol away."""

HEARTBEAT_MS: Final = 500
MISSED_BEATS: Final = 3
"""A rater that was silent for this many heartbeats gets no more work: short enough that its requests still
make their deadline elsewhere, long enough for one long batch."""

MAX_FRAME_BYTES: Final = 16 * 1024 * 1024
"""A frame holds at most one batch of requests, each bounded by the gateways; more is an attack."""


class Kind(IntEnum):
    WORK = 1
    BEAT = 2
    DRAINED = 3
    STATE = 4
    DONE = 5
    LEAVE = 6
    GOODBYE = 7


class WorkItem(NamedTuple):
    seq: int
    method: str
    params: bytes
    client_key: str
    deadline_us: int


class Reply(NamedTuple):
    seq: int
    code: int
    """0, or a code of common.errors; then `body` is the error object."""
    body: bytes
    replayed: bool


class WireError(ValueError):
    """The peer sent something that is not one of the messages."""


_pack = msgspec.msgpack.Encoder().encode


def encode_work(balancer_id: str, now_us: int, items: list[WorkItem]) -> bytes:
    return _pack((int(Kind.WORK), balancer_id, now_us, items))


def encode_beat(balancer_id: str, now_us: int) -> bytes:
    return _pack((int(Kind.BEAT), balancer_id, now_us))


def encode_drained(balancer_id: str) -> bytes:
    return _pack((int(Kind.DRAINED), balancer_id))


def encode_state(name: str, credit: int, tariff_epoch: int) -> bytes:
    return _pack((int(Kind.STATE), PROTOCOL, name, credit, tariff_epoch))


def encode_done(balancer_id: str, replies: list[Reply]) -> bytes:
    return _pack((int(Kind.DONE), balancer_id, replies))


def encode_leave() -> bytes:
    return _pack((int(Kind.LEAVE),))


def encode_goodbye() -> bytes:
    return _pack((int(Kind.GOODBYE),))


_SHAPES: Final[dict[Kind, tuple[type, ...]]] = {
    Kind.WORK: (str, int, list[tuple[int, str, bytes, str, int]]),
    Kind.BEAT: (str, int),
    Kind.DRAINED: (str,),
    Kind.STATE: (int, str, int, int),
    Kind.DONE: (str, list[tuple[int, int, bytes, bool]]),
    Kind.LEAVE: (),
    Kind.GOODBYE: (),
}
_FIX_ARRAY: Final = 0x90
_DECODERS: Final = {
    bytes((_FIX_ARRAY + 1 + len(shape), kind)): (
        kind,
        msgspec.msgpack.Decoder(cast(Any, tuple)[(int, *shape)]).decode,
    )
    for kind, shape in _SHAPES.items()
}
"""By a message's first two bytes: an array of so many, and its kind."""


def decode(frame: bytes) -> tuple[Kind, list[Any]]:
    """A frame's kind and fields, their types checked; WORK and DONE hold lists of rows, as tuples.

    Raises WireError for anything that is not a message of `PROTOCOL`. The first value that does not
    belong ends the reading: a frame full of empty lists would take 65 times its size as Python values.
    """
    if len(frame) > MAX_FRAME_BYTES:
        raise WireError(f"a frame of {len(frame)} bytes, the limit is {MAX_FRAME_BYTES}")
    known = _DECODERS.get(frame[:2])
    if known is None:
        raise WireError("not a message")
    kind, decode_fields = known
    try:
        _, *fields = decode_fields(frame)
    except Exception as error:  # msgspec raises several unrelated types on bad input
        raise WireError(f"a {kind.name} that is not one: {error}") from None
    return kind, fields
