"""The hot path as machine code: the same modules, compiled by mypyc and this machine's C compiler.

    python deploy/compile.py FOLDER                 # a copy of the packages with the compiled modules in it
    RATEL_COMPILED=1 python -m hatchling build -t wheel      # a wheel with them, for this Python and platform

Python is the source and does without: only processor time differs (docs/performance.md, "Compiled"). What is
compiled is what works through each request and does no more than that. Modules with msgspec's structs are
not: mypyc leaves out what stands beside a base class (`frozen=True`) and most types of fields.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT: Final = Path(__file__).resolve().parent.parent
PACKAGES: Final = ("balancer", "common", "rater")

MODULES: Final = (
    "balancer/admission.py",
    "balancer/dispatch.py",
    "balancer/router.py",
    "balancer/sharing.py",
    "balancer/telemetry.py",
    "common/clock.py",
    "common/histogram.py",
    "common/money.py",
    "common/rpc/jsonrpc.py",
    "common/rpc/jsonrpc_framer.py",
    "common/rpc/jsonrpc_requests.py",
    "common/times.py",
    "rater/accounts/mutations.py",
    "rater/accounts/value.py",
    "rater/descriptor_reader.py",
    "rater/link.py",
    "rater/rating/call_cost.py",
    "rater/rating/intervals.py",
    "rater/rating/prefixes.py",
    "rater/rating/quote.py",
    "rater/rating/schedule.py",
    "rater/rating/session_time.py",
    "rater/rating/snapshot.py",
    "rater/rating/spans.py",
    "rater/store/keys.py",
    "rater/store/scripts.py",
    "rater/telemetry.py",
    "rater/work/cluster_service.py",
    "rater/work/request_steps.py",
    "rater/work/rounds.py",
    "rater/work/service.py",
    "rater/worker.py",
)


def compile_into(folder: Path, opt_level: str = "3") -> list[Path]:
    """Copy the packages to a folder and compile there. The libraries, by their paths in it."""
    from mypyc.build import mypycify  # noqa: PLC0415 (needed here alone, and slow)
    from setuptools import Distribution  # noqa: PLC0415

    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__", "*.so")
        shutil.copytree(ROOT / package, folder / package, ignore=ignored, dirs_exist_ok=True)
    before = Path.cwd()
    os.chdir(folder)  # module names are paths from here
    try:
        with tempfile.TemporaryDirectory() as scratch:
            flags = [f"--config-file={ROOT / 'pyproject.toml'}", f"--cache-dir={scratch}/mypy"]
            extensions = mypycify(
                [*flags, *MODULES],
                opt_level=opt_level,
                debug_level="0",
                multi_file=True,
                target_dir=f"{scratch}/c",
                group_name="ratel",
            )
            command: Any = Distribution({"name": "ratel", "ext_modules": extensions}).get_command_obj(
                "build_ext"
            )
            command.build_lib, command.build_temp = ".", scratch
            command.ensure_finalized()
            command.run()
    finally:
        os.chdir(before)
    return sorted(path.relative_to(folder) for path in folder.rglob("*.so"))


class CompiledWheel(BuildHookInterface[Any]):
    """Of hatch: puts the libraries into a wheel when RATEL_COMPILED is 1."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable" or os.environ.get("RATEL_COMPILED") != "1":
            return
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build_data["force_include"] |= {str(folder / path): str(path) for path in compile_into(folder)}

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if hasattr(self, "_folder"):
            self._folder.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(description="Copy the packages to a folder, with the hot path compiled.")
    parser.add_argument("--quick", action="store_true", help="do not optimize: soon done, for tests")
    parser.add_argument("folder", type=Path, help="where to; what is there is removed")
    arguments = parser.parse_args()
    folder: Path = arguments.folder.resolve()
    if folder.exists() and not (folder / "balancer").is_dir() and any(folder.iterdir()):
        parser.error(f"{folder} holds something else")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    libraries = compile_into(folder, "0" if arguments.quick else "3")
    # One library more has the code: what bears a module's name only leads there.
    print(f"{len(libraries) - 1} modules compiled in {folder}")


if __name__ == "__main__":
    main()
