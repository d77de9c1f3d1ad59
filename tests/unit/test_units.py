"""The files of the units: how exposed systemd finds them, and what they must have in common."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).resolve().parents[2] / "deploy" / "systemd"
SERVICES = sorted(UNITS.glob("*.service"))
MAX_EXPOSURE = 1.5

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze here: apt-get install systemd"
)


def values(unit: Path, name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", unit.read_text(), re.MULTILINE)


def exposure(*units: Path) -> dict[str, float]:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", *map(str, units)],
        text=True,
        capture_output=True,
        check=False,
    )
    found = re.findall(r"exposure level for (ratel-[a-z]+)@?i?\.service: ([0-9.]+)", done.stdout)
    assert len(found) == len(units), done.stdout + done.stderr
    return {name: float(level) for name, level in found}


@needs_systemd
def test_no_service_is_exposed_more_than_promised(tmp_path: Path) -> None:
    assert len(SERVICES) == 5
    for service in SERVICES:
        [(name, level)] = exposure(service).items()
        assert level <= MAX_EXPOSURE, name
        # The measure itself: the same unit without its sandbox is found to be exposed.
        bare = tmp_path / service.name
        bare.write_text(service.read_text().split("# --- Sandbox")[0])
        assert exposure(bare)[name] > 5


@needs_systemd
@pytest.mark.parametrize("service", SERVICES, ids=lambda path: path.stem)
def test_other_networks_that_are_let_in_keep_it_below_the_bound(service: Path, tmp_path: Path) -> None:
    """As `install.sh --network` does."""
    wider = tmp_path / service.name
    wider.write_text(f"{service.read_text()}\n[Service]\nIPAddressAllow=10.0.0.0/8\n")
    assert max(exposure(wider).values()) <= MAX_EXPOSURE


@pytest.mark.parametrize("service", SERVICES, ids=lambda path: path.stem)
def test_every_service_is_watched_bounded_and_unprivileged(service: Path) -> None:
    for name, expected in (
        ("Type", "notify"),
        ("Restart", "always"),
        ("StartLimitIntervalSec", "0"),
        ("LimitCORE", "0"),
        ("IPAddressDeny", "any"),
        ("IPAddressAllow", "localhost"),
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
    ):
        assert values(service, name) == [expected], name
    [user] = values(service, "User")
    assert user in ("ratel", "ratel-store")
    assert values(service, "TasksMax")
    assert values(service, "LimitNOFILE")
    assert values(service, "TimeoutStopSec")
    if user == "ratel":
        # Only stores and sentinels keep anything, and only Ratel's work loops can tell that they stand still.
        assert not values(service, "StateDirectory")
        assert values(service, "WatchdogSec")
        assert values(service, "MemoryMax")


def test_no_secret_comes_by_the_environment_or_a_command_line() -> None:
    for service in SERVICES:
        for line in values(service, "Environment") + values(service, "ExecStart"):
            for word in line.split():
                name, _, value = word.partition("=")
                if re.search("PASSWORD|KEY|SECRET", name):
                    assert value.startswith("%d/"), line


def test_the_sandbox_is_the_same_everywhere_but_for_what_is_said_in_words() -> None:
    def lines(service: Path) -> set[str]:
        text = service.read_text().partition("# --- Sandbox")[2].partition("[Install]")[0]
        return {line for line in text.splitlines() if line and not line.startswith("#")}

    own = {"InaccessiblePaths", "RestrictAddressFamilies", "SystemCallFilter"}
    common = [{line for line in lines(service) if line.partition("=")[0] not in own} for service in SERVICES]
    assert len(common[0]) > 25
    assert all(found == common[0] for found in common)
