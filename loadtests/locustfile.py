"""What locust is given: users that make calls, over JSON-RPC and over HTTP, and a reckoning at the end.

    python -m loadtests.calls                       # all by itself, with a cluster of its own
    python -m loadtests.calls --prepare FOLDER      # the tariff and accounts, for a cluster that runs
    ratel load FOLDER
    locust -f loadtests/locustfile.py --headless -u 20 -r 5 -t 60s --host http://127.0.0.1:8000 \\
        --html report.html
    locust -f loadtests/locustfile.py --processes 4 …       # distributed over locust's own workers

Class names at the end choose: `SwitchUser`, `BillingUser`. With `loadtests/busy_hours.py` as a second `-f`
the number of users follows a day (`--day`, `--peak`).
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from loadtests.calls import reckoning  # noqa: F401 - it listens to locust's events
from loadtests.calls.users import BillingUser, SwitchUser

__all__ = ["BillingUser", "SwitchUser"]
