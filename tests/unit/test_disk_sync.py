"""The append-only file is forced out when it has changed, and troubles are logged, not raised."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from common.storage.disk_sync import DiskSync


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were forced out, in order."""
    names: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        names.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return names


def change(path: Path, now_s: int) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(str(now_s))
    os.utime(path, (now_s, now_s))


def test_a_file_is_forced_out_once_for_each_change(tmp_path: Path, synced: list[str]) -> None:
    sync = DiskSync(tmp_path)
    first, second = tmp_path / "appendonlydir" / "1.aof", tmp_path / "appendonlydir" / "2.aof"
    change(first, 1)
    sync.sync()
    sync.sync()
    assert synced == ["1.aof"]
    change(second, 2)
    sync.sync()
    change(first, 3)
    sync.sync()
    assert synced == ["1.aof", "2.aof", "1.aof"]


def test_a_folder_that_is_not_there_yet_is_no_trouble(tmp_path: Path, synced: list[str]) -> None:
    DiskSync(tmp_path).sync()
    assert synced == []


def test_a_failing_disk_is_logged_once_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries = []

    def fail(descriptor: int) -> None:
        tries.append(descriptor)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    change(tmp_path / "appendonlydir" / "1.aof", 1)
    sync = DiskSync(tmp_path)
    sync.sync()
    sync.sync()
    assert len(tries) == 2
    assert [record.message for record in caplog.records] == [
        "the append-only file can't be forced to the disk: Input/output error"
    ]


def test_stopping_forces_out_what_is_left(tmp_path: Path, synced: list[str]) -> None:
    sync = DiskSync(tmp_path)
    sync.start()
    change(tmp_path / "appendonlydir" / "1.aof", 1)
    sync.stop()
    assert synced == ["1.aof"]
