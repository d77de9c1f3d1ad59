"""Proof of the instrument: `python -m tests.chaos.defects` puts each defect into a copy of the tree, one at a
time, and runs chaos there until it is caught. The exit code is 1 when one is not.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from tests.chaos.defect_list import DEFECTS, Defect
from tests.chaos.report import table
from tests.chaos.run import SeedResult
from tests.faults.nodes import ROOT

SEEDS: Final = 6
"""Tried until one catches it."""
TIMEOUT_S: Final = 900.0


class Caught(NamedTuple):
    defect: str
    by: str
    """Empty when nothing was noticed."""
    seed: int
    seconds: float
    example: str


def copy_tree(target: Path) -> None:
    """All files that belong to the tree, also those that are not committed yet."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        source = ROOT / name
        if name and source.is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes(source.read_bytes())


def edited(tree: Path, defect: Defect) -> dict[Path, str]:
    """The texts of the files that the defect changes. Raises ValueError when the tree is another one."""
    texts: dict[Path, str] = {}
    for path, old, new in defect.edits:
        text = texts.get(tree / path) or (tree / path).read_text()
        if text.count(old) != 1:
            raise ValueError(f"{defect.name}: {path} holds this {text.count(old)} times, not once:\n{old}")
        texts[tree / path] = text.replace(old, new)
    return texts


def hunt(defect: Defect, debits: int, steps: int) -> Caught:
    """Run seeds in a defective copy until one is not clean."""
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="defect-") as folder:
        tree, results = Path(folder) / "tree", Path(folder) / "results.json"
        copy_tree(tree)
        for path, text in edited(tree, defect).items():
            path.write_text(text)
        command = [sys.executable, "-m", "tests.chaos", "--until-caught", f"--json={results}"]
        command += [f"--seeds={SEEDS}", f"--debits={debits}", f"--steps={steps}"]
        command += [f"--groups={int(defect.replicated)}", f"--faults={','.join(defect.faults)}"]
        command += [f"--gateways={int(defect.gateways)}"]
        run = subprocess.run(
            command, cwd=tree, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        if not results.exists():
            raise RuntimeError(f"{defect.name}: {run.stdout}{run.stderr}")
        last = msgspec.json.decode(results.read_bytes(), type=list[SeedResult])[-1]
    # What is stuck may be so for any reason: only a reckoning that does not agree has caught a defect.
    found = [
        f"{name} {getattr(last, name)}" if hasattr(last, name) else name
        for name in last.verdicts
        if name != "stuck"
    ]
    example = last.problems[0] if last.problems else ""
    return Caught(defect.name, ", ".join(found), last.seed, time.monotonic() - began_s, example)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.defects")
    parser.add_argument("--only", default="", help="defects whose names hold this")
    parser.add_argument("--debits", type=int, default=2_000)
    parser.add_argument("--steps", type=int, default=4)
    options = parser.parse_args()
    caught = []
    for defect in DEFECTS:
        if options.only in defect.name:
            caught.append(hunt(defect, options.debits, options.steps))
            print(
                f"{caught[-1].defect}: {caught[-1].by or 'NOT CAUGHT'}\n    {caught[-1].example}", flush=True
            )
    rows = [("defect", "caught by", "seed", "seconds")]
    rows += [(c.defect, c.by or "NOT CAUGHT", str(c.seed), f"{c.seconds:.0f}") for c in caught]
    print(f"\n{table(rows)}")
    return int(not all(c.by for c in caught))


if __name__ == "__main__":
    sys.exit(main())
