"""A chaos run: `python -m tests.chaos --seeds 20 --first 1 --debits 50000`.

Each seed is a fresh cluster of real processes under load, which the nemesis strikes; then the reckoning.
The exit code is 1 when anything is lost, doubled, wrong, unresolved, or does not come back.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import msgspec

from tests.chaos.cluster import nice
from tests.chaos.report import faults_table, seeds_table
from tests.chaos.run import SeedResult, Settings, left_out, run_seed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--debits", type=int, default=50_000, help="acknowledged ones, of each seed")
    parser.add_argument("--steps", type=int, default=8, help="of the nemesis, at least, in each seed")
    parser.add_argument("--faults", default="", help="names, with commas in between; default: all")
    parser.add_argument("--groups", type=int, default=4, help="each so many-th seed has sentinels; 0: none")
    parser.add_argument(
        "--gateways", type=int, default=3, help="each so many-th pair of seeds has gateways; 0: none"
    )
    parser.add_argument(
        "--until-caught", action="store_true", help="end with the first seed that is not clean"
    )
    parser.add_argument("--json", type=Path, help="write the results here, too")
    parser.add_argument("--keep", action="store_true", help="keep the folders of seeds that failed")
    options = parser.parse_args()
    nice()
    # Orderly, so that nothing that was started stays.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    settings = Settings(
        debits=options.debits,
        steps=options.steps,
        faults=tuple(name.strip() for name in options.faults.split(",") if name.strip()),
        every_group=options.groups,
        every_gateways=options.gateways,
    )
    results: list[SeedResult] = []
    try:
        for seed in range(options.first, options.first + options.seeds):
            results.append(_one(seed, settings, keep=options.keep))
            if options.json:
                options.json.write_bytes(msgspec.json.encode(results))
            if options.until_caught and not results[-1].clean:
                break
    except KeyboardInterrupt:
        print("interrupted")
    print(f"\n{faults_table(results)}\n\n{seeds_table(results)}")
    if missing := left_out():
        print(f"\nleft out, as libfaketime is not installed: {', '.join(missing)}")
    return int(not all(result.clean for result in results))


def _one(seed: int, settings: Settings, *, keep: bool) -> SeedResult:
    home = Path(tempfile.mkdtemp(prefix="chaos-"))
    result = run_seed(seed, home / "site", settings)
    print(
        f"seed {seed} ({result.kind}, {result.front}): {result.acknowledged:,} acknowledged,"
        f" {len(result.gaps)} faults, {result.seconds:.0f} s: {', '.join(result.verdicts) or 'clean'}",
        flush=True,
    )
    for problem in result.problems:
        print(f"    {problem}", flush=True)
    if keep and not result.clean:
        print(f"    kept: {home}", flush=True)
    else:
        shutil.rmtree(home, ignore_errors=True)
    return result


if __name__ == "__main__":
    sys.exit(main())
