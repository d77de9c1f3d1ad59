"""What a JSON-RPC message holds, and the decoders for it. `common.rpc.jsonrpc_requests` uses them."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, Raw, UnsetType


class Request(msgspec.Struct, gc=False):
    method: str
    id: Raw = Raw(b"")
    params: Raw = Raw(b"null")
    jsonrpc: Literal["2.0"] | UnsetType = UNSET


class Envelope(msgspec.Struct, gc=False):
    """Any object, to find out what is wrong with it."""

    id: Raw = Raw(b"")
    method: Raw = Raw(b"")
    jsonrpc: Raw = Raw(b"")


decode = msgspec.json.Decoder(Request).decode
decode_lines = msgspec.json.Decoder(Request).decode_lines
decode_envelope = msgspec.json.Decoder(Envelope).decode
decode_list = msgspec.json.Decoder(list[Raw]).decode
