"""Where fuzzing starts: well-formed inputs of each target, and the words of its language."""

from __future__ import annotations

import json
from typing import Final

import msgpack

from common import wire
from common.methods import METHODS
from common.wire import Reply, WorkItem
from tests.fuzz.targets import TARGETS
from tests.fuzz.tariff_targets import FILES
from tests.unit.tariff_sample import sample_files, to_bytes

DESCRIPTOR: Final = (
    b'{"TOR":0,"CstmId":"vdf","Subject":"rif","DestinationPrefix":"0256","TimeStart":"2012-02-02T17:30:00Z",'
    b'"TimeEnd":"2012-02-02T18:30:00.5+02:00","Amount":12.5e1,"RequestId":"r1"}'
)
CALL: Final = b'{"id":1,"method":"Responder.GetCost","params":[{"Subject":"rif"}]}'
CALL_2: Final = b'{"jsonrpc":"2.0","id":"a","method":"Responder.Get","params":{}}'
NOTIFICATION: Final = b'{"jsonrpc":"2.0","method":"Responder.DebitSMS"}'

STREAMS: Final = (
    CALL,
    CALL_2 + b"\n" + NOTIFICATION + b"\r\n" + CALL,
    b"[" + CALL_2 + b"," + NOTIFICATION + b",5]\n[]\n" + CALL + CALL,
    b'\xef\xbb\xbf{"id":null,"method":"Nonsense"}\n{"id":"\\ud800","method":1}\n"{"x\n{"a":[{"b":\n' + CALL,
    b'{"id":1\n \n' + CALL + b'\n{"id":"\\\n"}',
    b'{"jsonrpc":"1.0","id":01,"method":"Responder.Get"}\n' + b"[" * 12 + b"]" * 12 + b"\n[[],{}]",
)
REPLIES: Final = (
    b'{"jsonrpc":"2.0","id":1,"result":540}\n{"id":2,"result":{"Cost":0.1e3},"error":null}\n',
    b'{"jsonrpc":"2.0","id":3,"error":{"code":-32012,"message":"no","data":{"name":"no_rate","tenant":"t"}}}',
    b'{"id":4,"result":[1e9999999999999999999]}\n{"id":5,"result":"\\""}\n',
    b'{"id":null,"error":{"code":-32700,"message":"not valid JSON"}}\n',
)
QUERIES: Final = (
    b"cstmid=vdf&subj=rif&dest=0257&amount=100",
    b"CstmId=vdf@Subject=rif@dest=%2B40256@amount=-1.5e3&requestid=%F0%9F%98%80+x",
    b"cstmid=vdf&subj=+40&dest=0256&start=2012-02-02T17:30:00+02:00&end=2012-02-02T18:30:00Z&tor=1",
    b"cstmid=vdf&subj=rif&dest=0256&start=2012-02-02T17:30:00Z&duration=60.5&cstmid=again&x=%zz",
)
BODIES: Final = (
    b'{"cstmid":"vdf","subj":"rif","dest":"0257","amount":100,"duration":1e2,"Colour":[{}]}',
    DESCRIPTOR,
    QUERIES[0],
)
REQUESTS: Final = (
    b"GET /a?b=c HTTP/1.1\r\nHost: x\r\n\r\nHEAD /healthz HTTP/1.1\r\n\r\nGET / HTTP/1.0\r\n\r\n",
    b"POST /a HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabcGET /b HTTP/1.1\r\nA:\r\n\r\n",
    b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: t\r\n\r\nG",
    b"GET /a HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\nGET /b HTTP/1.0\r\n\r\nX",
)
DESCRIPTORS: Final = (
    DESCRIPTOR,
    b'{"cstmid":"vdf","SUBJECT":"\\u00e9\\ud83d\\ude00","Amount":-0.000001,"Tor":7,"x":[{"y":null}]}',
    b'{"CstmId":"a","Subject":"b","Amount":9007199254.740991,"Amount":null}',
)
FRAMES: Final = (
    wire.encode_work("b1", 123, [WorkItem(1, "GetCost", DESCRIPTOR, "", 5_000_000)]),
    wire.encode_done("b1", [Reply(1, 0, b"540", False), Reply(2, -32012, b"{}", True)]),
    wire.encode_beat("b1", 2**40),
    wire.encode_drained("b1"),
    wire.encode_state("r1", 256, 3),
    wire.encode_leave(),
    wire.encode_goodbye(),
    msgpack.packb([1, "b", 0, [[1, "m", msgpack.ExtType(4, b"x"), msgpack.Timestamp(1), -1.5, {"a": None}]]]),
)
_DAMAGE: Final = (b"", b"\xff\xff", b"x", b"99999", b"\x90" * 9, b"\xa1\xff", b"2")


def _steered(steps: range, texts: tuple[bytes, ...]) -> list[bytes]:
    return [bytes([step]) + text for step in steps for text in texts]


SEEDS: Final[dict[str, list[bytes]]] = {
    "jsonrpc": [head + text for head in (b"\x00", b"\x01\x00", b"\x03\x04\x1f\x02") for text in STREAMS],
    "replies": [head + text for head in (b"\x00", b"\x01\x00", b"\x02\x00\x0c") for text in REPLIES],
    "http": _steered(range(len(METHODS)), QUERIES)
    + _steered(range(len(METHODS), 6 * len(METHODS), 7), BODIES),
    "connection": [head + text for head in (b"\x00", b"\x01\x00", b"\x02\x05\x1f") for text in REQUESTS],
    "wire": list(FRAMES),
    "descriptor": _steered(range(len(METHODS)), DESCRIPTORS),
    "loader": [
        bytes([number]) + (to_bytes(value) if pretty else json.dumps(value).encode())
        for number, name in enumerate(FILES)
        for pretty in (True, False)
        for value in [sample_files()[name]]
    ]
    + [b"\0" + to_bytes(sample_files()[FILES[0]]).replace(b'"18:00:00"', b'"00:00:00"', 1)],
    "store": [bytes([what, where]) + new for what in range(24) for where in (0, 70) for new in _DAMAGE],
}

_JSON_WORDS: Final = (
    "{",
    "}",
    "[",
    "]",
    '"',
    ":",
    ",",
    "null",
    "true",
    "1e999",
    "-0",
    "\\ud83d\\ude00",
    "\\u0022",
)
_DESCRIPTOR_WORDS: Final = (
    *("TOR", "Tor", "CstmId", "Subject", "DestinationPrefix", "TimeStart", "TimeEnd", "Amount", "RequestId"),
    *('"Amount":', "2012-02-02T17:30:00Z", "+14:00", "9007199254.740991"),
)
WORDS: Final[dict[str, tuple[str, ...]]] = {
    "jsonrpc": (
        *_JSON_WORDS,
        "Responder.Get",
        '"id":',
        '"method":',
        '"params":',
        '"jsonrpc":"2.0"',
        "\n",
        "}{",
    ),
    "replies": (
        *_JSON_WORDS,
        '"id":',
        '"result":',
        '"error":',
        '"code":',
        '"message":',
        '"data":',
        '"name":',
    ),
    "http": (
        *("&", "@", "=", "+", "%2B", "%40", "%00", "%C3%A9", "cstmid=", "subj=", "Subject=", "dest=", "tor="),
        *("amount=", "start=", "end=", "duration=", "requestid=", *_JSON_WORDS, *_DESCRIPTOR_WORDS),
    ),
    "connection": (
        *(
            "GET ",
            "POST ",
            "HEAD ",
            "CONNECT ",
            "/",
            "*",
            " HTTP/1.1\r\n",
            " HTTP/1.0\r\n",
            "\r\n",
            "\n",
            ": ",
            "\0",
        ),
        *(
            "Content-Length: ",
            "Transfer-Encoding: chunked\r\n",
            "Connection: close\r\n",
            "Expect: 100-continue\r\n",
        ),
        *("Connection: Upgrade\r\nUpgrade: h2c\r\n", "0\r\n\r\n", "3\r\nabc\r\n", ";x=y", "\r\n\r\n"),
    ),
    "wire": (
        "\x91",
        "\x92",
        "\x93",
        "\x95",
        "\xc0",
        "\xc2",
        "\xc4\x01x",
        "\xa1b",
        "\xcf",
        "\xd6\xff",
        "\xdd",
    ),
    "descriptor": (*_JSON_WORDS, *_DESCRIPTOR_WORDS),
    "loader": (
        *(
            *_JSON_WORDS,
            *_DESCRIPTOR_WORDS,
            "Timezone",
            "Europe/Bucharest",
            "RateIncrement",
            "ActivationPeriods",
        ),
        *("ActivationTime", "Intervals", "Month", "MonthDay", "WeekDays", "StartTime", "EndTime", "18:00:00"),
        *(
            "24:00:00",
            "Ponder",
            "ConnectFee",
            "Price",
            "BillingUnit",
            "Prefixes",
            "Id",
            "SmsCredit",
            "Traffic",
        ),
        *("ReceivedCallsSecondsLimit", "ReceivedCallBonus", "MinuteBuckets", "VolumeDiscountThresholds"),
        *(
            "Volume",
            "Discount",
            "Seconds",
            "Priority",
            "DestinationId",
            "Credit",
            "MinCredit",
            "Type",
            "prepaid",
        ),
        *("postpaid", "TariffPlanId", "ResetDayOfTheMonth", "MinuteBucket", "VolumeDiscountSeconds", "*any"),
    ),
    "store": ("format", "chunks", "sha256", "vdf", "\xa1\xff", "\x90", "\xdd\xff", "-1", "UTC"),
}
"""Of single characters below 256 each, one a byte."""

assert TARGETS.keys() == SEEDS.keys() == WORDS.keys()
