"""Runs inside a machine: debits with a key each, repeated with the same key until they are answered.

Ends when its stdin does, and says how many were acknowledged, what errors had to be overcome, and the
longest time in which nobody had an answer. Usage: keyed_load.py THREADS
"""

from __future__ import annotations

import itertools
import json
import sys
import threading
import time
from collections import Counter

from common.client import JSONClient
from common.errors import RatelError

ADDRESS = "127.0.0.1:2001"
GIVE_UP_S = 60.0

ended = threading.Event()
lock = threading.Lock()
errors: Counter[str] = Counter()
answers: list[float] = []
left_open: list[str] = []


def debit(client: JSONClient, key: str) -> None:
    parameters = {
        "CstmId": "vdf",
        "Subject": "rif",
        "DestinationPrefix": "0257",
        "Amount": 1,
        "RequestId": key,
    }
    until_s = time.monotonic() + GIVE_UP_S
    while time.monotonic() < until_s:
        try:
            client.call("Responder.DebitBalance", parameters)
        except RatelError as error:
            with lock:
                errors[error.code] += 1
            time.sleep(0.05)
        else:
            with lock:
                answers.append(time.monotonic())
            return
    left_open.append(key)


def work(name: str) -> None:
    number = 0
    with JSONClient(ADDRESS) as client:
        while not ended.is_set():
            number += 1
            debit(client, f"{name}-{number}")
            time.sleep(0.005)


def main(threads: int) -> None:
    began_s = f"{time.time():.0f}"
    workers = [threading.Thread(target=work, args=(f"load-{began_s}-{number}",)) for number in range(threads)]
    for worker in workers:
        worker.start()
    print("started", flush=True)
    sys.stdin.read()
    ended.set()
    for worker in workers:
        worker.join()
    pauses = [later - earlier for earlier, later in itertools.pairwise(answers)]
    report = {
        "acknowledged": len(answers),
        "errors": errors,
        "open": left_open,
        "pause_s": round(max(pauses), 2),
    }
    print(json.dumps(report), flush=True)


main(int(sys.argv[1]))
