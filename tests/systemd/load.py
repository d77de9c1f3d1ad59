"""Runs inside the machine: debits until it is told to end, and says what became of them.

HTTP makes a connection for each request and never tries again, so a refused one is a failed request. JSON-RPC
keeps its connection for as long as that lasts; where it ends between two requests another one is made, where
it ends within one, that one has failed. Usage: load.py SECONDS [ADDRESS KEY], for a balancer that is not at
127.0.0.1 and wants an API key.
"""

from __future__ import annotations

import http.client
import json
import socket
import sys
import threading
import time
from collections import Counter

HOST = sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1"
KEY = sys.argv[3] if len(sys.argv) > 3 else ""
HTTP, JSONRPC = (HOST, 8000), (HOST, 2001)
QUERY = "cstmid=vdf&subj=rif&dest=0257&amount=1"

ended = threading.Event()
done: Counter[str] = Counter()
failures: list[str] = []
longest_s = [0.0]


def over_http() -> None:
    connection = http.client.HTTPConnection(*HTTP, timeout=30)
    try:
        headers = {"Authorization": f"Bearer {KEY}"} if KEY else {}
        connection.request("POST", f"/debitbalance?{QUERY}", headers=headers)
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise OSError(f"{response.status} {body!r}")
    finally:
        connection.close()


class JsonRpc:
    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def __call__(self) -> None:
        if self._socket is not None and self._has_ended(self._socket):
            self._socket.close()
            self._socket = None
        if self._socket is None:
            self._socket = socket.create_connection(JSONRPC, timeout=30)
            if KEY:
                self._ask(self._socket, "Responder.Authenticate", {"ApiKey": KEY})
        parameters: dict[str, object] = {
            "CstmId": "vdf",
            "Subject": "rif",
            "DestinationPrefix": "0257",
            "Amount": 1,
        }
        self._ask(self._socket, "Responder.DebitBalance", parameters)

    def _ask(self, sock: socket.socket, method: str, parameters: dict[str, object]) -> None:
        message = {"id": 1, "method": method, "params": [parameters]}
        sock.sendall(json.dumps(message).encode() + b"\n")
        text = b""
        while not text.endswith(b"\n"):
            part = sock.recv(65536)
            if not part:
                self._socket = None
                raise OSError(f"the connection ended before the answer: {text!r}")
            text += part
        reply = json.loads(text)
        if reply.get("error") is not None:
            raise OSError(str(reply["error"]))

    @staticmethod
    def _has_ended(sock: socket.socket) -> bool:
        sock.setblocking(False)
        try:
            return sock.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        finally:
            sock.settimeout(30)


def work(name: str, call: object) -> None:
    assert callable(call)
    while not ended.is_set():
        began = time.monotonic()
        try:
            call()
            done[name] += 1
        except (OSError, ValueError, http.client.HTTPException) as error:
            failures.append(f"{name}: {type(error).__name__}: {error}")
        longest_s[0] = max(longest_s[0], time.monotonic() - began)
        time.sleep(0.005)


def main(seconds: float) -> None:
    calls = [("http", over_http)] * 3 + [("jsonrpc", JsonRpc()) for _ in range(3)]
    threads = [threading.Thread(target=work, args=call) for call in calls]
    for thread in threads:
        thread.start()
    print("started", flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    ended.wait(seconds)
    ended.set()
    for thread in threads:
        thread.join()
    report = {
        "done": done,
        "failed": len(failures),
        "failures": failures[:20],
        "longest_s": round(longest_s[0], 3),
    }
    print(json.dumps(report), flush=True)


main(float(sys.argv[1]))
