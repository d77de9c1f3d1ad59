"""`deploy/install.sh`: wrong words are told in one line, before anything is done."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "install.sh"


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(SCRIPT), *words], text=True, capture_output=True, check=False)


def test_it_explains_itself() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert "--wheelhouse DIR" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "which roles has this host: balancer, rater, store, sentinel, or all?"),
        (("balancr",), "unknown argument 'balancr'; a role is balancer, rater, store, sentinel or all"),
        (("--raters", "0", "rater"), "--raters 0: expected a number from 1 to 999"),
        (("--raters", "two", "rater"), "--raters two: expected a number from 1 to 999"),
        (("--raters", "2", "store"), "--raters is for a host with the role rater"),
        (("--wheel",), "--wheel needs a value"),
        (("--uninstall", "rater"), "--uninstall is for the whole host, without roles"),
        (("--rollback", "all"), "--rollback is for the whole host, without roles"),
    ],
)
def test_wrong_words_are_told(words: tuple[str, ...], said: str) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [f"install.sh: {said}", "Try install.sh --help"]


@pytest.mark.skipif(os.geteuid() != 0, reason="root is told more")
@pytest.mark.skipif(shutil.which("systemctl") is None, reason="no systemctl here")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--network", "10.0.0.0/33", "rater"), "--network 10.0.0.0/33: expected an address or a network"),
        (("--listen", "everywhere", "balancer"), "--listen everywhere: expected an address"),
        (("sentinel",), "sentinels have to know --primary ADDRESS"),
        (("--primary", "10.0.0.300", "store"), "--primary 10.0.0.300: expected an address that all hosts"),
        (("--primary", "127.0.0.1", "store"), "--primary 127.0.0.1: expected an address that all hosts"),
        (("--primary", "10.0.0.1", "rater"), "--primary is for a host with the role store or sentinel"),
        (("--python", "python9", "rater"), "no python9 here"),
        (("--wheel", "/nowhere/ratel-1-py3-none-any.whl", "rater"), "there is no such file"),
        (("--wheel", "/nowhere/ratel-1-cp311-cp311-linux_x86_64.whl", "rater"), "there is no such file"),
        (("--wheel", str(SCRIPT), "rater"), "not a wheel of Ratel"),
    ],
)
def test_what_can_be_seen_to_be_wrong_is_told_before_anything_is_done(
    words: tuple[str, ...], said: str
) -> None:
    done = run("--no-start", "--dry-run", *words)
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert "would" not in done.stdout


def test_what_it_installs_is_what_is_tested_with() -> None:
    root = SCRIPT.parents[1]

    def pinned(file: Path) -> set[str]:
        return set(re.findall(r"^([a-z0-9.-]+==[^ ;\\]+)", file.read_text(), re.MULTILINE))

    deployed = pinned(SCRIPT.with_name("requirements.lock"))
    assert deployed <= pinned(root / "requirements.lock"), "make lock"
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    needed = {re.split(r"[\[<>=~! ]", line)[0] for line in project["dependencies"]}
    assert needed <= {line.partition("==")[0] for line in deployed}, "make lock"
