"""The built wheel holds what an installation needs, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_wheel_holds_the_packages_with_their_scripts(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    packages = ("balancer", "rater", "common")
    expected = {
        str(path.relative_to(ROOT))
        for package in packages
        for path in (ROOT / package).rglob("*")
        if path.suffix in (".py", ".lua") or path.parent.name == "web" or path.name == "py.typed"
    }
    assert "balancer/http/web/index.html" in expected
    assert any(name.endswith(".lua") for name in expected)
    assert "common/py.typed" in expected
    assert {name for name in names if ".dist-info/" not in name} == expected
