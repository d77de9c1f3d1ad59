"""How rounds become a table of shares, and whose file system a folder is on."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtests.durability_cost import Run, mount_of, shares, table

MOUNTS = r"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:20 / /dev rw - devtmpfs udev rw
24 23 0:21 / /dev/shm rw,nosuid - tmpfs tmpfs rw
25 22 254:16 / /srv/my\040disk rw master:1 - xfs /dev/vdb rw
26 22 254:32 / /srv rw - btrfs /dev/vdc rw
27 26 254:48 / /srv rw - ext4 /dev/vdd rw
"""


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("/", ("/dev/vda", "ext4")),
        ("/home/x", ("/dev/vda", "ext4")),
        ("/dev/shm/x", ("tmpfs", "tmpfs")),
        ("/dev/shmx", ("udev", "devtmpfs")),
        ("/srv/my disk/data", ("/dev/vdb", "xfs")),
        ("/srv/other", ("/dev/vdd", "ext4")),  # what was mounted last hides what was there before
    ],
)
def test_a_folder_is_on_the_file_system_that_is_mounted_nearest_above_it(
    folder: str, expected: tuple[str, str]
) -> None:
    assert mount_of(Path(folder), MOUNTS) == expected


def run(per_s: float, errors: int = 0) -> Run:
    return Run(per_s, 1.0, 2.0, 50.0, errors)


ROUNDS = [
    {"everysec": run(1000), "always": run(800)},
    {"everysec": run(500), "always": run(350, errors=2)},  # the whole machine was slow
    {"everysec": run(1000), "always": run(900, errors=1)},
]


def test_a_level_s_share_is_that_within_each_round() -> None:
    assert shares(ROUNDS, "always") == [0.8, 0.7, 0.9]
    assert shares(ROUNDS, "everysec") == [1.0, 1.0, 1.0]


def test_the_table_has_medians_and_adds_errors_up() -> None:
    lines = table(ROUNDS).splitlines()
    assert lines[2] == "| everysec | 100% | 100%–100% | 1,000 | 1.0, 2.0 | 50.0 | 0 |"
    assert lines[3] == "| always | 80% | 70%–90% | 800 | 1.0, 2.0 | 50.0 | 3 |"
