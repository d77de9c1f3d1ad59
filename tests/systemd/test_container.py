"""The steps of the container image's recipe, run one by one in a tree of files: there is no engine here."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.systemd.conftest import WHEELS
from tests.systemd.machine import CACHE, ROOT, base_tree, why_not

pytestmark = [pytest.mark.alone, pytest.mark.timeout(900)]

RECIPE = (ROOT / "deploy/container/Containerfile").read_text().replace("\\\n", " ")


@pytest.fixture
def tree() -> Iterator[Path]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    if not list(WHEELS.glob("ratel-*.whl")):
        pytest.skip("no wheels: make wheelhouse")
    tree = CACHE / "image"
    subprocess.run(["rm", "-rf", str(tree)], check=True)
    subprocess.run(["cp", "-a", "--reflink=auto", str(base_tree()), str(tree)], check=True)
    yield tree
    subprocess.run(["rm", "-rf", str(tree)], check=True)


def chroot(tree: Path, *words: str) -> str:
    done = subprocess.run(["chroot", *words], text=True, capture_output=True, check=False, env={"PATH": PATH})
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def test_the_steps_make_a_program_that_starts_as_nobody(tree: Path) -> None:
    copies = re.findall(r"^COPY (?!--)(\S+) (\S+)$", RECIPE, re.MULTILINE)
    steps = re.findall(r"^RUN (.*)$", RECIPE, re.MULTILINE)
    assert (len(copies), len(steps)) == (2, 2)
    for source, target in copies:
        place = tree / target.lstrip("/")
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, place)
        else:
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / source, place)
    for step in steps:
        chroot(tree, str(tree), "/bin/sh", "-ec", step)
    user = re.findall(r"^USER (.*)$", RECIPE, re.MULTILINE)[0]
    entry = re.findall(r'^ENTRYPOINT \["(.*)"\]$', RECIPE, re.MULTILINE)[0]
    said = chroot(tree, f"--userspec={user}", str(tree), entry, "--version")
    assert re.fullmatch(r"ratel [0-9.]+(, compiled)?\n", said)
    for command in ("balancer", "rater"):
        assert chroot(tree, f"--userspec={user}", str(tree), entry, command, "--help")
