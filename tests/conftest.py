"""What holds for all tests.

Generated examples have no time limits, since the machine may be busy. The settings of this machine's
own Ratel are nobody's here, nor are those of the shell that runs the tests.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from common.compiled import is_compiled
from common.storage.embedded_store import SERVER_VARIABLE

settings.register_profile("ratel", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ratel")

for name in [name for name in os.environ if name.startswith("RATEL_") and not name.startswith("RATEL_TEST")]:
    if name not in ("RATEL_FAULT_FIGURES", "RATEL_REFERENCE_TARIFF"):
        del os.environ[name]
os.environ["RATEL_CONFIG"] = os.devnull


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is collected stays to the end: to search it for garbage took a third of the time of collecting."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """`-m alone` wants a few files: to import all the others first takes longer than most of these tests."""
    if config.getoption("markexpr") != "alone" or not collection_path.match("test_*.py"):
        return None
    return True if "mark.alone" not in collection_path.read_text(encoding="utf-8") else None


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("source") and is_compiled():
        pytest.skip("looks into modules that are compiled")


if os.environ.get("RATEL_TEST_SERVER"):
    os.environ[SERVER_VARIABLE] = os.environ["RATEL_TEST_SERVER"]
