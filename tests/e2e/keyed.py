"""A cluster that lets in by API keys, with three tenants: `red`, and two that are none of red's business.

Only the other two have rates to 0999, so any price to there is theirs; and their accounts begin with figures
that no sum of red's comes near to.
"""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common.storage.store import StoreConnection
from tests.e2e.cluster import RATEL, Cluster, Process, address

RED = "red"
VICTIMS = ("blue", "red:rif")
"""The second one's name and a subject, joined as in keys, could be red's with another subject."""

MARK = "424242"
ONLY_THEIRS = "0999"
OWN = "0257"


def tariff(tenant: str) -> list[dict[str, Any]]:
    prefix, figure = (OWN, 1_000_000) if tenant == RED else (ONLY_THEIRS, int(MARK))
    always = [{"ActivationTime": "2012-01-01T00:00:00Z", "Intervals": [{"Price": 1, "BillingUnit": 1}]}]
    bucket = {"DestinationId": "zone", "Seconds": figure, "Priority": 10, "Price": 0}
    return [
        {"CstmId": tenant, "Subject": "*any", "DestinationPrefix": prefix, "ActivationPeriods": always},
        {"CstmId": tenant, "Id": "zone", "Prefixes": [prefix]},
        {"CstmId": tenant, "Id": "plan", "SmsCredit": figure, "MinuteBuckets": [bucket]},
        *(
            {
                "CstmId": tenant,
                "Id": subject,
                "Credit": figure,
                "SmsCredit": figure,
                "TariffPlanId": "plan",
                "MinuteBuckets": [bucket],
            }
            for subject in ("rif", "x", "fresh")
        ),
    ]


def write_tariffs(folder: Path) -> list[Path]:
    """By kind of object, as the loader wants them."""
    names = ("activation_periods", "destinations", "tariff_plans", "user_budgets")
    for tenant in (RED, *VICTIMS):
        rates, destinations, plans, *accounts = tariff(tenant)
        own = folder / tenant.replace(":", "_")
        own.mkdir(parents=True)
        for name, objects in zip(names, ([rates], [destinations], [plans], accounts), strict=True):
            (own / f"{name}.json").write_text(json.dumps(objects))
    return sorted(folder.iterdir())


def ratel(*args: str | Path) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run([*RATEL, *map(str, args)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class KeyedCluster(Cluster):
    """`ratel up --gateways 1 --api-keys`, and a rater beside it that answers by itself."""

    def __init__(self, folder: Path, *args: str) -> None:
        self.file = folder / "api-keys.json"
        self.red = self.create(RED, "read", "debit", "operator")
        self.blue = self.create(VICTIMS[0], "read", "debit", "operator")
        loads = [option for path in write_tariffs(folder / "tariffs") for option in ("--load", str(path))]
        super().__init__(
            folder / "data",
            *("--raters", "1", "--gateways", "1", "--api-keys", str(self.file)),
            *loads,
            *args,
        )

    def create(self, tenant: str, *allow: str, **options: str) -> str:
        words = [word for each in allow for word in ("--allow", each)]
        words += [word for name, text in options.items() for word in (f"--{name.replace('_', '-')}", text)]
        return ratel(
            "apikey", "create", "--api-keys", self.file, "--name", f"of {tenant}", "--tenant", tenant, *words
        )

    def wait_ready(self) -> None:
        super().wait_ready()
        self.direct_rater = Process(
            *("rater", "--store", f"embedded:{self.data}", "--jsonrpc", "127.0.0.1:0"),
            *("--api-keys", str(self.file), "--log-level", "debug"),
        )
        self.direct = address(self.direct_rater.wait_for_line("listening").partition("=")[2])

    def stop(self) -> None:
        self.direct_rater.terminate()
        super().stop()

    def state_of_others(self) -> dict[bytes, bytes]:
        """Everything in the store that is not red's: accounts, journals, tokens, tariffs."""
        with StoreConnection(f"embedded:{self.data}") as store:
            [keys] = store.execute([("KEYS", "*")])
            kept = [key for key in keys if not key.startswith(b"ratel:{red:") and key != b"ratel:raters"]
            return dict(zip(kept, store.execute([("DUMP", key) for key in kept]), strict=True))


class Line:
    """One JSON-RPC connection; what is sent is any bytes."""

    def __init__(self, where: tuple[str, int], key: str | None) -> None:
        self.socket = socket.create_connection(where, timeout=30)
        self._stream = self.socket.makefile("rb")
        if key is not None:
            [self.authenticated] = self.ask([authenticate(key)])

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self.socket.close()

    def ask(self, messages: Iterable[bytes]) -> list[bytes]:
        """As many replies as there were messages."""
        sent = list(messages)
        self.socket.sendall(b"".join(message + b"\n" for message in sent))
        return [self._stream.readline() for _ in sent]

    def call(self, method: str, **descriptor: Any) -> Any:
        [reply] = self.ask([message(method, json.dumps(descriptor))])
        return json.loads(reply)


def message(method: str, params: str) -> bytes:
    return f'{{"jsonrpc":"2.0","id":1,"method":{json.dumps(method)},"params":{params}}}'.encode()


def authenticate(key: str) -> bytes:
    return message("Responder.Authenticate", json.dumps({"ApiKey": key}))
