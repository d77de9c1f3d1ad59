"""Where Ratel keeps its data on this machine when nothing else is said."""

from __future__ import annotations

import os
from pathlib import Path


def data_dir() -> Path:
    """The folder of the embedded store: $RATEL_DATA, else `ratel` in the user's data folder.

    Source: XDG Base Directory Specification, `$XDG_DATA_HOME`, which must be absolute to count.
    """
    named = os.environ.get("RATEL_DATA")
    if named:
        return Path(named)
    base = Path(os.environ.get("XDG_DATA_HOME") or "")
    return (base if base.is_absolute() else Path.home() / ".local" / "share") / "ratel"
