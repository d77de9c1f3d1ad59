"""One command: a cluster of its own, its accounts, a day of calls by locust, a report, and the reckoning.

    python -m loadtests.calls --day 120 --peak 20 --processes 2 --html var/locust.html

Everything after `--` goes to locust. Exit code 0: no request failed and every cent is where it belongs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from loadtests.calls.plan import files
from tests.e2e.cluster import ROOT, Cluster

LOADTESTS: Final = ROOT / "loadtests"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtests.calls", description=__doc__)
    parser.add_argument("--day", type=float, default=120.0, help="seconds that a day is squeezed into")
    parser.add_argument("--peak", type=int, default=20, help="users in the busiest hour")
    parser.add_argument("--subscribers", type=int, default=1000)
    parser.add_argument("--raters", type=int, default=2)
    parser.add_argument("--processes", type=int, default=0, help="locust's own workers; 0: no distribution")
    parser.add_argument("--html", type=Path, help="write locust's report here")
    parser.add_argument("--prepare", type=Path, help="only write tariff and accounts into this folder")
    parser.add_argument("locust", nargs="*", help="further arguments of locust")
    options = parser.parse_args()
    if options.prepare is not None:
        write(options.prepare, options.subscribers)
        return 0
    with tempfile.TemporaryDirectory(prefix="ratel-calls-") as folder:
        tariff, data = Path(folder, "tariff"), Path(folder, "data")
        write(tariff, options.subscribers)
        cluster = Cluster(data, "--load", str(tariff), "--raters", str(options.raters))
        try:
            cluster.wait_ready()
            return subprocess.run(command(cluster, options), cwd=ROOT, check=False).returncode
        finally:
            cluster.stop()


def write(folder: Path, subscribers: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, objects in files(subscribers).items():
        (folder / name).write_text(json.dumps(objects))


def command(cluster: Cluster, options: argparse.Namespace) -> list[str]:
    host, port = cluster.jsonrpc
    words = [sys.executable, "-m", "locust", "--headless", "--only-summary", "--host", cluster.http]
    words += ["-f", f"{LOADTESTS / 'locustfile.py'},{LOADTESTS / 'busy_hours.py'}"]
    words += ["--address", f"{host}:{port}", "--subscribers", str(options.subscribers)]
    words += ["--day", str(options.day), "--peak", str(options.peak)]
    if options.processes:
        words += ["--processes", str(options.processes)]
    if options.html is not None:
        options.html.parent.mkdir(parents=True, exist_ok=True)
        words += ["--html", str(options.html)]
    return words + options.locust


if __name__ == "__main__":
    sys.exit(main())
