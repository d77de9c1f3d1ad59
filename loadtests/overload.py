"""What a cluster does when more is asked of it than it can do: goodput, refusals, latency.

    python -m loadtests.overload                      # all workloads, three rounds, some minutes
    python -m loadtests.overload --only debit --rounds 1 --seconds 5 --json out.json

It starts a cluster of its own on free ports of this machine. Each round first finds the peak by a
closed loop, then offers multiples of it by an open loop, in another order each time. Goodput is
compared within a round only, and the table shows medians over the rounds, so that other work on the
machine counts for all rows alike.

With two cores or more, the store and the raters are held on the first one, and the balancer and this
client share the second: the raters are then what is short, as in a deployment that has outgrown
them. `--no-pin` leaves that to the system.

Source: docs/architecture.md, "Rules that keep money correct", 5.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from common.limits import raise_file_limit
from loadtests.open_loop import Client, Kind, Outcome, Request
from tests.e2e.cluster import Cluster

MULTIPLES: Final = (0.5, 1.0, 1.5, 2.0, 3.0)
WINDOW: Final = 400
"""Unanswered requests of the closed loop: enough for large batches at two raters, and no overload."""

SETTLE_S: Final = 6.0
"""After the start of raters a balancer is patient for one deadline (`balancer.admission`)."""

TENANT: Final = "load"
TARIFF: Final = {
    "activation_periods.json": [
        {
            "CstmId": TENANT,
            "Subject": "*any",
            "DestinationPrefix": "0",
            "ActivationPeriods": [
                {
                    "ActivationTime": "2012-01-01T00:00:00Z",
                    "Intervals": [
                        {"StartTime": "", "EndTime": "18:00:00", "Price": 0.2, "BillingUnit": 1},
                        {"StartTime": "18:00:00", "EndTime": "", "Price": 0.1, "BillingUnit": 1},
                    ],
                }
            ],
        },
        {
            "CstmId": TENANT,
            "Subject": "*any",
            "DestinationPrefix": "1",
            "ActivationPeriods": [
                {
                    "ActivationTime": "2012-01-01T00:00:00Z",
                    "Intervals": [
                        {
                            "StartTime": f"{hour:02}:00:00",
                            "EndTime": f"{hour + 3:02}:00:00" if hour < 21 else "",
                            "Price": 0.1 + hour / 100,
                            "BillingUnit": 1,
                        }
                        for hour in range(0, 24, 3)
                    ],
                }
            ],
        },
    ],
    "user_budgets.json": [{"Id": "caller", "Credit": 1_000_000_000}],
}
_DESCRIPTOR: Final = {"CstmId": TENANT, "Subject": "caller", "DestinationPrefix": "0257"}
_CALL: Final = {"TimeStart": "2024-02-05T06:00:00Z", "TimeEnd": "2024-03-06T06:00:00Z"}
"""Thirty days, sixty timespans: several times the work of a debit for a rater."""

_QUERY: Final = f"cstmid={TENANT}&subj=caller&dest=1257"
"""240 timespans: so much work for a rater that three times what it can do is not too much for a client and a
balancer that share a core."""

WORKLOADS: Final = {
    "debit": Request("DebitBalance", json.dumps(_DESCRIPTOR | {"Amount": 1})),
    "cost": Request("GetCost", json.dumps(_DESCRIPTOR | _CALL)),
    "http": Request(target=f"/getcost?{_QUERY}&start={_CALL['TimeStart']}&end={_CALL['TimeEnd']}"),
}


class Row(NamedTuple):
    """One run: `multiple` of the peak was offered, 0 for the closed loop that found it."""

    multiple: float
    offered_per_s: float
    goodput_per_s: float
    overloaded_per_s: float
    others: int
    unanswered: int
    p50_ms: float
    p99_ms: float
    refusal_p50_ms: float
    refusal_p99_ms: float
    cpu_percent: dict[str, float]


@dataclass(frozen=True)
class Site:
    """A cluster with its processes by part."""

    cluster: Cluster
    pids: dict[str, list[int]]

    def address(self, request: Request) -> tuple[str, int]:
        if not request.target:
            return self.cluster.jsonrpc
        url = urlsplit(self.cluster.http)
        assert url.hostname, url
        assert url.port, url
        return url.hostname, url.port

    def cpu_s(self) -> dict[str, float]:
        return {part: sum(map(_cpu_s, pids)) for part, pids in self.pids.items()}


def start(stack: ExitStack, *args: str, pinned: bool = True) -> Site:
    """A cluster with the tariff above; `stack` ends it."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ratel-overload-")))
    for name, objects in TARIFF.items():
        (folder / name).write_text(json.dumps(objects))
    loads = [word for name in TARIFF for word in ("--load", str(folder / name))]
    cluster = Cluster(folder / "data", *loads, *args)
    stack.callback(cluster.kill_everything)
    cluster.wait_ready()
    site = Site(
        cluster,
        {
            "store": cluster.processes("-server"),
            "raters": cluster.rater_pids(),
            "balancer": cluster.processes("common.cli balancer"),
            "client": [os.getpid()],
        },
    )
    cores = sorted(os.sched_getaffinity(0))
    if pinned and len(cores) > 1:
        stack.callback(os.sched_setaffinity, 0, cores)
        for part, pids in site.pids.items():
            for pid in pids:
                _pin(pid, cores[0] if part in ("store", "raters") else cores[1])
    return site


def _pin(pid: int, core: int) -> None:
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak(site: Site, request: Request, seconds: float) -> Row:
    """What the cluster does when as much is asked of it as it can do."""
    before = site.cpu_s()
    with Client(site.address(request), request) as client:
        outcome = client.closed_loop(WINDOW, seconds)
    return _row(0.0, outcome, before, site.cpu_s())


def offer(site: Site, request: Request, multiple: float, peak_per_s: float, seconds: float) -> Row:
    """A multiple of the peak, whatever becomes of it."""
    before = site.cpu_s()
    with Client(site.address(request), request) as client:
        outcome = client.open_loop(multiple * peak_per_s, seconds)
    return _row(multiple, outcome, before, site.cpu_s())


def _row(multiple: float, outcome: Outcome, before: dict[str, float], after: dict[str, float]) -> Row:
    return Row(
        multiple,
        outcome.offered_per_s,
        outcome.goodput_per_s,
        outcome.count(Kind.OVERLOADED) / outcome.seconds,
        outcome.count(Kind.OTHER),
        outcome.unanswered,
        outcome.quantile_ms(Kind.OK, 0.5),
        outcome.quantile_ms(Kind.OK, 0.99),
        outcome.quantile_ms(Kind.OVERLOADED, 0.5),
        outcome.quantile_ms(Kind.OVERLOADED, 0.99),
        {part: 100 * (after[part] - before[part]) / outcome.seconds for part in before},
    )


def median(rows: list[Row]) -> Row:
    """Field by field, but for what must not be hidden: faults are added up."""
    columns = [statistics.median(row[place] for row in rows) for place in range(len(Row._fields) - 1)]
    cpu = {part: statistics.median(row.cpu_percent[part] for row in rows) for part in rows[0].cpu_percent}
    middle = Row(*columns, cpu)  # type: ignore[arg-type]
    return middle._replace(
        others=sum(row.others for row in rows), unanswered=sum(row.unanswered for row in rows)
    )


def table(name: str, rounds: list[list[Row]]) -> str:
    lines = [
        f"| {name} | offered/s | goodput/s | of the peak | overloaded/s | other errors | unanswered "
        "| p50, p99 ms | p50, p99 ms of refusals | CPU %: store, raters, balancer, client |",
        "| --- |" + " ---: |" * 9,
    ]
    for place in range(len(rounds[0])):
        row = median([rows[place] for rows in rounds])
        share = statistics.median(
            rows[place].goodput_per_s / max(other.goodput_per_s for other in rows) for rows in rounds
        )
        lines.append(
            f"| {f'{row.multiple:g}×' if row.multiple else 'closed loop'} | {row.offered_per_s:.0f} "
            f"| {row.goodput_per_s:.0f} | {share:.0%} | {row.overloaded_per_s:.0f} | {row.others} "
            f"| {row.unanswered} | {row.p50_ms:.0f}, {row.p99_ms:.0f} "
            f"| {row.refusal_p50_ms:.0f}, {row.refusal_p99_ms:.0f} "
            f"| {', '.join(f'{percent:.0f}' for percent in row.cpu_percent.values())} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtests.overload", description="See the module.")
    parser.add_argument("--only", choices=WORKLOADS, action="append", help="this workload; may be repeated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each run")
    parser.add_argument("--raters", type=int, default=2)
    parser.add_argument("--no-pin", action="store_true", help="leave it to the system what runs where")
    parser.add_argument("--seed", type=int, default=1, help="of the order of the runs")
    parser.add_argument("--json", type=Path, help="write every single run here")
    options = parser.parse_args()
    raise_file_limit()
    order = random.Random(options.seed)
    results: dict[str, list[list[Row]]] = {}
    for name in options.only or WORKLOADS:
        request = WORKLOADS[name]
        with ExitStack() as stack:
            site = start(stack, "--raters", str(options.raters), pinned=not options.no_pin)
            peak(site, request, SETTLE_S)
            rounds = []
            for _ in range(options.rounds):
                best = peak(site, request, options.seconds)
                rows = [
                    offer(site, request, multiple, best.goodput_per_s, options.seconds)
                    for multiple in order.sample(MULTIPLES, len(MULTIPLES))
                ]
                rounds.append([best, *sorted(rows)])
        results[name] = rounds
        print(table(name, rounds), end="\n\n", flush=True)
    if options.json:
        plain = {
            name: [[row._asdict() for row in rows] for rows in rounds] for name, rounds in results.items()
        }
        options.json.write_text(json.dumps(plain, indent=1))


if __name__ == "__main__":
    main()
