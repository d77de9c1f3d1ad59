"""Runs simulated worlds: `python -m tests.simulation --seeds 100000 --from 0`, `--seed 4711 --trace`."""

from __future__ import annotations

import sys
import time
import traceback
from argparse import ArgumentParser
from collections import Counter

from tests.simulation.world import World


def main() -> int:
    parser = ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3_000, help="how many worlds")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first one's seed")
    parser.add_argument("--seed", type=int, help="one world only")
    parser.add_argument("--trace", action="store_true", help="print all that happened in it")
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.seeds)
    if options.seed is not None:
        seeds = range(options.seed, options.seed + 1)
    seen: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    began_s = time.process_time()
    for seed in seeds:
        world = World(seed)
        try:
            world.run()
        except AssertionError as error:
            failures[str(error)] += 1
            place = traceback.extract_tb(error.__traceback__)[-1]
            print(f"seed {seed}: {error} ({place.name}, at {world.now_us} µs)", flush=True)
        if options.trace:
            print(world.weather)
            for at_us, *what in world.trace:
                print(f"{at_us:>10}", *what)
        seen.update(world.events.keys())
    print(f"{len(seeds)} worlds in {time.process_time() - began_s:.1f} s of CPU, {failures.total()} failed")
    print("worlds in which it happened:", ", ".join(f"{what} {n}" for what, n in sorted(seen.items())))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
