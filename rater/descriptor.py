"""The call descriptor: the one object in a request's `params`. Source: docs/rating.md, "Call descriptor".

What is read from JSON text is in `rater.descriptor_reader`.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from rater.json_fields import NumberText


class Descriptor(msgspec.Struct, frozen=True, gc=False):
    """A checked call descriptor; what the method does not need may be empty or 0."""

    tor: int
    tenant: str
    subject: str
    destination: str
    start_us: int
    end_us: int
    amount_micros: int
    request_id: str
    """"" when the client gave none."""
    start_text: str = ""
    end_text: str = ""
    """The two times as `format_rfc3339` writes them, where they came so; else empty."""


class TypedDescriptor(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The documented spellings, and the `Tor` that the first clients of this API use."""

    CstmId: str
    Subject: str
    TOR: int | None = None
    Tor: int | None = None
    DestinationPrefix: str = ""
    TimeStart: str = ""
    TimeEnd: str = ""
    Amount: Any = None
    RequestId: str = ""


FIELDS: Final = (
    "TOR",
    "CstmId",
    "Subject",
    "DestinationPrefix",
    "TimeStart",
    "TimeEnd",
    "Amount",
    "RequestId",
)
decode_typed = msgspec.json.Decoder(TypedDescriptor, float_hook=NumberText).decode
"""Raises msgspec's errors for what is not just that, and then `rater.descriptor_reader` looks closer."""
