"""Wall clocks that jump: libfaketime's, which looks up in a file, each time, how far off the clock is.

Only wall clocks are moved: a monotonic clock has no jumps.
"""

from __future__ import annotations

from pathlib import Path

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
"""None where it is not installed (Debian's package libfaketime)."""


class Clock:
    """The clock of processes that have this environment."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.environment = {
            "LD_PRELOAD": str(LIBRARIES[0]),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }
        self.move_to(0)

    def move_to(self, ahead_s: int) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(f"{ahead_s:+d}")
        new.replace(self._file)
