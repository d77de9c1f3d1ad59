"""Child processes that do not outlive their parent, however the parent ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
"""prctl(2), Linux only."""

# Looked up once, in the parent: between fork and exec as little as possible should happen.
_prctl = getattr(ctypes.CDLL(None), "prctl", None) if sys.platform == "linux" else None
_parent_pid = 0


def _note_parent() -> None:
    global _parent_pid  # noqa: PLW0603 - what a child must know from before the fork
    _parent_pid = os.getpid()


os.register_at_fork(before=_note_parent)


def die_with_parent() -> None:
    """For `subprocess.Popen(preexec_fn=…)`: the child gets SIGTERM when its parent ends, even by kill -9.

    Precisely, when the thread that started it ends: start children from a thread that stays.
    Does nothing where the system has no such thing.
    """
    if _prctl is None:
        return
    _prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != _parent_pid:  # it ended before prctl took effect: no signal will come
        os._exit(1)
