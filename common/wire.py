"""The messages between a balancer, its raters and its clients: one msgpack array in one ZeroMQ frame.

A *client* is a gateway that runs as a process of its own, or any program that sends requests over ZeroMQ
(`common.zmq_client`). It asks a balancer just as a balancer asks a rater, so the messages are the same.

| kind | direction | fields after the kind |
| --- | --- | --- |
| WORK | asks → does | id of who asks, its clock (µs), list of work items |
| BEAT | asks → does, and balancer → who has just connected | id of who asks, its clock (µs) |
| DRAINED | asks → does | id of who asks: nothing more will come, answer to LEAVE |
| JOIN | client → balancer | protocol, id of the client: sent on joining and as heartbeat |
| STATE | does → asks | protocol, name, credit, tariff epoch: sent on joining and as heartbeat |
| DONE | does → asks | id of who asked, list of replies, µs that the work took (0 is not known) |
| LEAVE | does → asks | – : send no more work |
| GOODBYE | does → asks | – : everything is answered, or nobody knows of who asks: forget me |
| ABOUT | does → asks | what it says of itself for people to see (`common.about`) |

A rater *does* what a balancer *asks*; a balancer does what a client asks.

A work item is (sequence number, method name, params as JSON text, key, deadline on the clock of who asks
in µs). A reply is (sequence number, error code or 0, JSON text, replayed). The clock is a monotonic one;
deadlines are compared with the least difference to one's own clock that was seen (`common.clock`), so
clock jumps do not matter.

The id of who asks is new with each start, and sequence numbers begin anew: DONE names the id, so that one
that was restarted never takes an answer to its predecessor's request for one to its own.

A method's name may be bound to tenants, as in `GetCost ["vdf"]`: then it is done for no others, which the
rater sees to, as it alone reads the parameters (`common.security.scopes`).

A key is `c:` and what the client called its request, `g:` and a token that a gateway made, or "". Then the
one who does it makes the token, of the id of who asks and the sequence number, and passes it on as `g:…`:
so a gateway can ask several balancers, each of which may ask several raters, and it is done once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from typing import Any, Final, NamedTuple, cast

import msgpack
import msgspec

PROTOCOL: Final = 2
"""Raised when a message changes shape or meaning; who speaks another one is turned away."""

CLIENT_KEY: Final = "c:"
TOKEN_KEY: Final = "g:"
"""How a key begins. Kinds of keys are told apart by that, so none can pass for another's."""

HEARTBEAT_MS: Final = 500
MISSED_BEATS: Final = 3
"""A rater that was silent for this many heartbeats gets no more work: short enough that its requests still
make their deadline elsewhere, long enough for one long batch."""

SILENCE_US: Final = HEARTBEAT_MS * MISSED_BEATS * 1000
"""Whoever was not heard for this long gets no more work, until heard again."""

PROBE: Final = b""
"""What ZeroMQ sends by itself on each new connection of who has ZMQ_PROBE_ROUTER set. A balancer answers it
with a BEAT, and who gets that says STATE or JOIN: so they know each other before the next heartbeat, and a
client learns that answers may have been lost with the connection before."""

MAX_FRAME_BYTES: Final = 16 * 1024 * 1024
"""A frame holds at most one batch of requests, each bounded by the gateways; more is an attack."""

MAX_PARAMS_BYTES: Final = 1024 * 1024
"""Of one request: as for one message of JSON-RPC over TCP, so that it fits into a frame wherever it goes."""

MAX_KEY_CHARS: Final = 512
"""A client's key has 256 at most, a token is the id of who asks and a number."""

MAX_ID_CHARS: Final = 64
"""Of who asks: it becomes part of tokens."""

MAX_METHOD_CHARS: Final = 1024
"""A name of some 26 characters, and the tenants that it may be done for (`common.security.scopes`)."""

ITEM_BYTES: Final = 6400
"""What a work item takes beside its parameters, at most: a key and a method's name, up to 4 bytes for each
character, and some numbers."""


class Kind(IntEnum):
    WORK = 1
    BEAT = 2
    DRAINED = 3
    STATE = 4
    DONE = 5
    LEAVE = 6
    GOODBYE = 7
    JOIN = 8
    ABOUT = 9


_WORK: Final = int(Kind.WORK)
_DONE: Final = int(Kind.DONE)


class WorkItem(NamedTuple):
    seq: int
    method: str
    params: bytes
    key: str
    deadline_us: int


class Reply(NamedTuple):
    seq: int
    code: int
    """0, or a code of common.errors; then `body` is the error object."""
    body: bytes
    replayed: bool


ReplyRow = tuple[int, int, bytes, bool]
"""A `Reply`, or the plain tuple of its fields."""


class WireError(ValueError):
    """The peer sent something that is not one of the messages."""


_pack = msgpack.Packer(use_bin_type=True, autoreset=True).pack
_pack_rows = msgspec.msgpack.Encoder().encode
"""The same bytes, for messages with many rows: a quarter of the time."""


def encode_work(balancer_id: str, now_us: int, items: list[WorkItem]) -> bytes:
    return _pack_rows((_WORK, balancer_id, now_us, items))


def fitting(items: list[WorkItem], max_bytes: int) -> int:
    """How many of the items, from the first on, fit into one message: at least one."""
    room_bytes = max_bytes - ITEM_BYTES * len(items)
    if sum([len(item.params) for item in items]) <= room_bytes:
        return len(items)
    total_bytes = 0
    for count, item in enumerate(items):
        total_bytes += ITEM_BYTES + len(item.params)
        if total_bytes > max_bytes:
            return max(count, 1)
    return len(items)


def encode_beat(balancer_id: str, now_us: int) -> bytes:
    return bytes(_pack((int(Kind.BEAT), balancer_id, now_us)))


def encode_join(client_id: str) -> bytes:
    return bytes(_pack((int(Kind.JOIN), PROTOCOL, client_id)))


def encode_drained(balancer_id: str) -> bytes:
    return bytes(_pack((int(Kind.DRAINED), balancer_id)))


def encode_state(name: str, credit: int, tariff_epoch: int) -> bytes:
    return bytes(_pack((int(Kind.STATE), PROTOCOL, name, credit, tariff_epoch)))


def encode_done(balancer_id: str, replies: Sequence[ReplyRow], busy_us: int = 0) -> bytes:
    return _pack_rows((_DONE, balancer_id, replies, busy_us))


DONE_BYTES: Final = 4 * 1024 * 1024
"""Replies in one message, about: with one more result it stays below `MAX_FRAME_BYTES`."""


def done_frames(balancer_id: str, replies: Iterable[ReplyRow], busy_us: int = 0) -> Iterator[bytes]:
    """The replies as one message, or as several where they are large; the last one tells of the work."""
    batch: list[ReplyRow] = []
    size = 0
    for reply in replies:
        batch.append(reply)
        size += len(reply[2])
        if size >= DONE_BYTES:
            yield encode_done(balancer_id, batch)
            batch, size = [], 0
    if batch:
        yield encode_done(balancer_id, batch, busy_us)


def encode_leave() -> bytes:
    return bytes(_pack((int(Kind.LEAVE),)))


def encode_goodbye() -> bytes:
    return bytes(_pack((int(Kind.GOODBYE),)))


def encode_about(about: bytes) -> bytes:
    return bytes(_pack((int(Kind.ABOUT), about)))


_SHAPES: Final[dict[Kind, tuple[type, ...]]] = {
    Kind.WORK: (str, int, list[tuple[int, str, bytes, str, int]]),
    Kind.BEAT: (str, int),
    Kind.DRAINED: (str,),
    Kind.STATE: (int, str, int, int),
    Kind.DONE: (str, list[tuple[int, int, bytes, bool]], int),
    Kind.LEAVE: (),
    Kind.GOODBYE: (),
    Kind.JOIN: (int, str),
    Kind.ABOUT: (bytes,),
}
_FIX_ARRAY: Final = 0x90
_DECODERS: Final = {
    bytes((_FIX_ARRAY + 1 + len(shape), kind)): msgspec.msgpack.Decoder(cast(Any, tuple)[(int, *shape)])
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
    decoder = _DECODERS.get(frame[:2])
    if decoder is None:
        raise WireError("not a message")
    try:
        kind, *fields = decoder.decode(frame)
    except Exception as error:  # msgspec raises several unrelated types on bad input
        raise WireError(f"a {Kind(frame[1]).name} that is not one: {error}") from None
    return Kind(kind), fields
