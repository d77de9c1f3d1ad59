"""Fuzzing guided by coverage: `python -m tests.fuzz TARGET --seconds 60`, or `all` for one after the other.

The inputs that found new ways through the code are kept in the corpus and are where the next run
starts. An input that breaks a promise is written beside it as `crash-…`, with the traceback on the
terminal and exit code 1; `python -m tests.fuzz TARGET --replay FILE` runs it again, without atheris.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

NO_ATHERIS = (
    "atheris is not installed: `pip install atheris` (Linux on x86-64), or `make fuzz`, which does that"
)
NAMES = ("jsonrpc", "replies", "http", "connection", "wire", "descriptor", "loader", "store")
MAX_INPUT_BYTES = 4096
"""Longer inputs find little that these don't, and take their time."""
INPUT_TIMEOUT_S = 20
"""An input of 4 kB that takes so long has found something."""
MEMORY_MB = 2048


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=(*NAMES, "all"))
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations; 0 is another one each time")
    parser.add_argument("--corpus", type=Path, default=Path("var/fuzz"), help="folder (default: %(default)s)")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run one input, and nothing else")
    options = parser.parse_args()
    if options.replay is not None:
        from tests.fuzz.targets import TARGETS

        TARGETS[options.target](options.replay.read_bytes())
        print("the input breaks no promise")
        return 0
    try:
        import atheris
    except ImportError:
        print(NO_ATHERIS, file=sys.stderr)
        return 2
    if options.target == "all":
        arguments = ["--seconds", str(options.seconds), "--seed", str(options.seed)]
        arguments += ["--corpus", str(options.corpus)]
        # One process each: the fuzzer ends its process, and coverage is counted for all of it.
        codes = [subprocess.call([sys.executable, "-m", "tests.fuzz", name, *arguments]) for name in NAMES]
        return int(any(codes))
    return _fuzz(atheris, options)


def _fuzz(atheris: Any, options: argparse.Namespace) -> int:
    with atheris.instrument_imports(include=["balancer", "common", "rater"]):
        from tests.fuzz.seeds import SEEDS, WORDS
        from tests.fuzz.targets import TARGETS

    folder: Path = options.corpus / options.target
    inputs = folder / "inputs"
    inputs.mkdir(parents=True, exist_ok=True)
    for seed in SEEDS[options.target]:
        (inputs / hashlib.sha1(seed).hexdigest()).write_bytes(seed)
    words = folder / "words.dict"
    lines = ["".join(f"\\x{byte:02x}" for byte in word.encode("latin-1")) for word in WORDS[options.target]]
    words.write_text("".join(f'"{line}"\n' for line in lines))
    settings = {
        "max_total_time": options.seconds,
        "max_len": MAX_INPUT_BYTES,
        "timeout": INPUT_TIMEOUT_S,
        "rss_limit_mb": MEMORY_MB,
        "seed": options.seed,
        "dict": words,
        "artifact_prefix": f"{folder}/",
        "print_final_stats": 1,
    }
    arguments = [sys.argv[0], *(f"-{name}={value}" for name, value in settings.items()), str(inputs)]
    atheris.Setup(arguments, TARGETS[options.target])
    atheris.Fuzz()  # ends the process, with an exit code that says whether something was found
    return 0


if __name__ == "__main__":
    sys.exit(main())
