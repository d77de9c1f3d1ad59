"""`--json` of the commands that do something and are done: one object, or one a line, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import click

from common.cli import main
from common.settings.config import leaves
from tests.e2e.cluster import RATEL, SAMPLE_TARIFF, Cluster

WITHOUT = {
    "up": "a service, whose output is a log",
    "balancer": "a service",
    "gateway": "a service",
    "rater": "a service",
    "top": "a screen",
    "roll": "tells of each unit as it goes; its exit code is the answer",
    "acl": "prints a file in the store's own format",
    "config example": "prints a file",
    "completion": "prints a script",
    "keys allow": "its exit code is the answer",
    "keys revoke": "its exit code is the answer",
    "config check": "its exit code is the answer",
}


def run(*words: str | Path, code: int = 0, **environment: str) -> Any:
    done = subprocess.run(
        [*RATEL, *map(str, words), "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | environment,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_every_other_command_has_it() -> None:
    lacking = {
        " ".join(names)
        for names, command in leaves(main, click.Context(main))
        if not any(parameter.name == "as_json" for parameter in command.params)
    }
    assert lacking - set(WITHOUT) == set()


def test_loading_and_switching(sample_cluster: Cluster) -> None:
    store = {"RATEL_STORE": sample_cluster.store_url}
    dry = run("load", SAMPLE_TARIFF, "--dry-run", **store)
    assert (dry["error_count"], dry["tenants"][0]["version"], dry["tenants"][0]["plans"]) == (0, None, 3)
    loaded = run("load", SAMPLE_TARIFF, **store)
    [tenant] = loaded["tenants"]
    assert tenant["tenant"] == "vdf"
    assert (tenant["carried"], tenant["kept"], tenant["accounts"]) == ([], 3, 3)
    assert loaded["picked_up"]["raters"] == loaded["picked_up"]["of"] > 0
    back = run("tariff", "activate", "vdf", str(tenant["version"] - 1), **store)
    assert (back["version"], back["before"], back["changed"]) == (
        tenant["version"] - 1,
        tenant["version"],
        True,
    )
    assert run("tariff", "activate", "vdf", str(tenant["version"] - 1), **store)["changed"] is False


def test_files_that_are_wrong(tmp_path: Path, sample_cluster: Cluster) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.write_text("[{}]")
    found = run("load", wrong, code=1, RATEL_STORE=sample_cluster.store_url)
    assert found["error_count"] == len(found["errors"]) == 1


def test_archiving_and_keys(tmp_path: Path, sample_cluster: Cluster) -> None:
    exported = run("journal", "export", "--to", tmp_path / "archive", RATEL_STORE=sample_cluster.store_url)
    assert exported["lines"] >= 3
    assert all(Path(file).is_file() for file in exported["files"])
    made = run("keys", "new", "rater-7", "--role", "rater", "--dir", tmp_path / "keys")
    assert Path(made["secret_file"]).is_file()
    assert "secret" not in made
    [row] = run("keys", "list", "--dir", tmp_path / "keys")
    assert (row["name"], row["public"], row["authorized"]) == ("rater-7", made["public"], False)
