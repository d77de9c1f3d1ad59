"""The examples of docs/exactly-once.md do what they say, on a new cluster with the sample tariff."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.e2e.cluster import RATEL, ROOT, SAMPLE_TARIFF, StartCluster

TEXT = (ROOT / "docs" / "exactly-once.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_the_examples_print_what_stands_there(start_cluster: StartCluster) -> None:
    cluster = start_cluster("--load", str(SAMPLE_TARIFF), "--tenant", "vdf")
    jsonrpc = f"127.0.0.1:{cluster.jsonrpc[1]}"
    here = {"http://127.0.0.1:8000": cluster.http, "127.0.0.1:2001": jsonrpc}

    def run(*command: str) -> str:
        environment = os.environ | {"RATEL_ADDRESS": jsonrpc}
        words = [re.sub("|".join(here), lambda match: here[match[0]], word) for word in command]
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT, env=environment
        )
        assert not done.stderr
        return done.stdout.replace("\r", "")

    (console,) = blocks("console")
    steps = re.findall(r"^\$ (.*)\n((?:[^$\n].*\n)*)", console, re.MULTILINE)
    assert len(steps) == console.count("$ ") == 4
    for command, printed in steps:
        if command.startswith("ratel "):
            assert run(*RATEL, *command.split()[1:]) == printed
        else:
            assert run("sh", "-c", command).rstrip("\n") == printed.rstrip("\n")

    (program,), (printed,) = blocks("python"), blocks("text")
    assert run(sys.executable, "-c", program) == printed
