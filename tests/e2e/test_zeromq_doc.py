"""The example of docs/api.md, "Over ZeroMQ", prints what stands there, and so do its messages by hand."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import msgpack
import zmq

from common.clock import monotonic_us
from tests.e2e.cluster import ROOT, Cluster

SECTION = (ROOT / "docs" / "api.md").read_text().partition("## Over ZeroMQ\n")[2].partition("\n## ")[0]


def test_the_example_prints_what_stands_there(sample_cluster: Cluster) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
    (printed,) = re.findall(r"```text\n(.*?)```", SECTION, re.DOTALL)
    assert program.count('"127.0.0.1:2000"') == 1
    done = subprocess.run(
        [sys.executable, "-c", program.replace("127.0.0.1:2000", sample_cluster.router)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == printed, done.stderr


def test_the_messages_of_the_table_are_understood(sample_cluster: Cluster) -> None:
    """What an author of a client in another language would write from the table alone."""
    call = {"CstmId": "vdf", "Subject": "rif", "DestinationPrefix": "0257", "Amount": 100}
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.IDENTITY, b"client-by-hand")
        dealer.setsockopt(zmq.RCVTIMEO, 20_000)
        dealer.connect(f"tcp://{sample_cluster.router}")
        dealer.send(msgpack.packb([8, 2, "by-hand"]))
        kind, protocol, _, credit, _ = msgpack.unpackb(dealer.recv())
        assert (kind, protocol) == (4, 2)
        assert credit > 0
        now_us = monotonic_us()
        items = [
            [1, "GetMaxSessionTime", json.dumps(call).encode(), "", now_us + 5_000_000],
            [2, "NoSuchMethod", b"{}", "", now_us + 5_000_000],
        ]
        dealer.send(msgpack.packb([1, "by-hand", now_us, items]))
        rows = {}
        while len(rows) < 2:
            kind, *fields = msgpack.unpackb(dealer.recv())
            if kind == 5:
                assert fields[0] == "by-hand"
                rows |= {row[0]: row[1:] for row in fields[1]}
        assert rows[1] == [0, b"100", False]
        assert rows[2][0] == json.loads(rows[2][1])["code"] == -32601
