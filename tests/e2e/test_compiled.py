"""The hot path compiled (`deploy/compile.py`): all of it is, it does what the source does, and serves."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

CONCERNED = (
    "tests/e2e/test_api_examples.py",
    "tests/integration/test_service.py",
    "tests/unit/test_descriptor.py",
    "tests/unit/test_dispatch_rules.py",
    "tests/unit/test_jsonrpc_session.py",
    "tests/unit/test_link.py",
    "tests/unit/test_rating_prefixes.py",
    "tests/unit/test_rating_quote.py",
    "tests/unit/test_rating_rules.py",
    "tests/unit/test_rating_session_time.py",
    "tests/unit/test_telemetry.py",
)
"""Tests of what is compiled: against second definitions, and against real processes. `make test COMPILED=1`
runs them all."""

pytestmark = pytest.mark.skipif(
    shutil.which("cc") is None or not Path(sysconfig.get_paths()["include"], "Python.h").exists(),
    reason="needs a C compiler and Python's headers",
)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compiled") / "packages"
    made = subprocess.run(
        [sys.executable, "deploy/compile.py", "--quick", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    return folder


def run(compiled: Path, *arguments: str) -> str:
    environ = os.environ | {"PYTHONSAFEPATH": "1", "PYTHONPATH": f"{compiled}:{ROOT}"}
    done = subprocess.run(
        [sys.executable, *arguments], env=environ, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_what_goes_through_each_request_is_compiled(compiled: Path) -> None:
    names = (
        "import sys, balancer.command, rater.command; files = sys.modules.items(); "
        "print(*sorted(n for n, m in files if (getattr(m, '__file__', '') or '').endswith('.so')))"
    )
    libraries = run(compiled, "-c", names).split()
    expected = {"balancer.dispatch", "common.rpc.jsonrpc", "rater.rating.quote", "rater.work.service"}
    assert expected <= set(libraries)
    sources = {
        str(path.relative_to(compiled).with_suffix("")).replace("/", ".") for path in compiled.rglob("*.py")
    }
    made = {path.name.partition(".")[0] for path in compiled.rglob("*.so")}
    loaded = {name.rpartition(".")[2] for name in libraries if name in sources}
    assert made - loaded == {"ratel__mypyc"}


def test_the_tests_of_what_is_compiled_pass(compiled: Path) -> None:
    asked = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "pythonpath=", "-m", "not alone")
    said = run(compiled, *asked, *CONCERNED)
    assert "looks into modules that are compiled" in said, "the source was tested"


def test_a_module_with_a_struct_is_not_compiled(compiled: Path) -> None:
    for library in compiled.rglob("*.so"):
        source = library.with_name(library.name.partition(".")[0] + ".py")
        if source.exists():
            assert "Struct" not in re.findall(r"class \w+\(.*?(Struct)\b", source.read_text()), source
