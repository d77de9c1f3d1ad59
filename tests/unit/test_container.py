"""The recipe and the compose file, as far as that can be seen without an engine that runs containers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml", reason="no YAML parser here")

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "container"
MADE = {"dist/wheelhouse", "./users.acl", "./secrets/ratel-rater.password"}
"""Made by the operator, as the files say."""


@pytest.fixture(scope="module")
def compose() -> Any:
    return yaml.safe_load((FOLDER / "compose.yaml").read_text())


def test_every_setting_in_it_is_one(compose: Any) -> None:
    known = set(re.findall("RATEL_[A-Z_]+", (ROOT / "deploy" / "ratel.toml").read_text())) | {
        "RATEL_INSECURE_ROUTER"
    }
    for name, service in compose["services"].items():
        assert set(service.get("environment", {})) <= known, name


def test_nothing_runs_with_rights_or_writes_into_itself(compose: Any) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
    assert compose["networks"]["inside"]["internal"]
    assert [port.split(":")[0] for port in compose["services"]["balancer"]["ports"]] == ["127.0.0.1"] * 2


def test_what_it_mounts_is_there(compose: Any) -> None:
    for service in compose["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith(".") and source not in MADE:
                assert (FOLDER / source).resolve().is_file()
    assert all(secret["file"] in MADE for secret in compose["secrets"].values())


def test_the_recipe_ends_unprivileged_and_copies_what_there_is() -> None:
    text = (FOLDER / "Containerfile").read_text()
    stages = text.split("\nFROM ")
    assert len(stages) == 3
    assert re.findall(r"^USER (.*)$", stages[-1], re.MULTILINE) == ["64000:64000"]
    for source in re.findall(r"^COPY (?!--)(\S+)", text, re.MULTILINE):
        assert source in MADE or (ROOT / source).exists()
