"""Three hosts as docs/deploy.md sets them up: a store, a balancer, raters; then a second balancer."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from tests.systemd.conftest import load, wheel_of
from tests.systemd.machine import Machine, wait_for

pytestmark = [pytest.mark.alone, pytest.mark.timeout(900)]

KEYS = "etc/ratel/keys"
PASSWORD = "etc/ratel/credentials/ratel-rater.password"


def bring(file: str, source: Machine, target: Machine) -> None:
    (target.folder / file).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    shutil.copy(source.folder / file, target.folder / file)


def debit(asker: Machine, balancer: str, key: str) -> int:
    url = f"http://{balancer}:8000/debitbalance?cstmid=vdf&subj=rif&dest=0257&amount=100"
    words = ["--silent", "--fail", "--max-time", "30", "--header", f"Authorization: Bearer {key}"]
    return int(asker.run("curl", *words, "-X", "POST", url))


def get_keys_under_load(balancer: Machine, raters: Machine, api_key: str) -> None:
    """They had none, and get them as docs/deploy.md says for several hosts: no request fails."""
    for machine in (balancer, raters):
        machine.run("sh", "-c", "rm /etc/systemd/system/ratel-*.service.d/40-keys.conf")
        machine.run("systemctl", "daemon-reload")
    # Without keys it listens to other hosts only if that is said to be meant, which it is no longer then.
    balancer.run("sh", "-c", "echo RATEL_INSECURE_ROUTER=1 >> /etc/ratel/ratel.env")
    balancer.run("systemctl", "restart", "ratel-balancer.service")
    balancer.run("sed", "-i", "/^RATEL_INSECURE_ROUTER=/d", "/etc/ratel/ratel.env")
    raters.run("systemctl", "restart", "ratel-rater@1.service", "ratel-rater@2.service")
    balancer.run("/root/deploy/install.sh", "--no-start", "--listen", "10.0.0.2", "balancer")
    raters.run("/root/deploy/install.sh", "--no-start", "--raters", "2", "rater")
    report: dict[str, Any] = {}
    with load(balancer, report, "10.0.0.2", api_key):
        raters.run("systemctl", "start", "--no-block", "ratel-rater@3")
        waiting = "waiting for a balancer"
        wait_for(lambda: raters.show("ratel-rater@3", "StatusText") == waiting, waiting)
        balancer.run("systemctl", "restart", "ratel-balancer")
        print(raters.run("ratel", "roll", "raters", "--ask", "http://10.0.0.2:8000"))
        raters.run("systemctl", "stop", "ratel-rater@3")
    assert report["failed"] == 0
    for machine, unit in ((balancer, "ratel-balancer.service"), (raters, "ratel-rater@2.service")):
        environment = machine.run("cat", f"/proc/{machine.show(unit, 'MainPID')}/environ")
        assert "_CURVE_KEY=/run/credentials/" in environment


def test_from_three_bare_hosts_to_two_balancers_of_which_one_dies(hosts: list[Machine]) -> None:
    one, two, three = hosts
    first = ["/root/deploy/install.sh", "--wheel", wheel_of(one), "--wheelhouse", "/root/wheels"]
    first += ["--network", "10.0.0.0/24"]
    one.run(*first, "store")
    one.run("sed", "-i", "s/^bind .*/bind 127.0.0.1 10.0.0.1/", "/etc/ratel/store/valkey.conf")
    one.run("systemctl", "restart", "ratel-store.service")
    refused = two.try_run(*first, "--listen", "10.0.0.2", "balancer")
    assert refused.returncode == 1
    assert "its clients need keys" in refused.stderr
    allowed = ("--name", "switch", "--tenant", "vdf", "--allow", "read", "--allow", "debit")
    key = two.run("ratel", "apikey", "create", *allowed).strip()
    two.run(*first, "--listen", "10.0.0.2", "balancer")

    # What is missing is said, step by step, and nothing is begun without it.
    refused = three.try_run(*first, "--raters", "2", "rater")
    assert refused.returncode == 1
    assert "raters need their password of the store" in refused.stderr
    three.run("sed", "-i", "s|127.0.0.1:6379|10.0.0.1:6379|", "/etc/ratel/ratel.toml")
    balancers = 's|^#*balancers = .*|balancers = ["10.0.0.2:2000"]|'
    three.run("sed", "-i", balancers, "/etc/ratel/ratel.toml")
    assert "nothing is wrong" in three.run("ratel", "config", "check")
    bring(PASSWORD, one, three)
    refused = three.try_run(*first, "--raters", "2", "rater")
    assert refused.returncode == 1
    assert "raters must know their balancers' key" in refused.stderr

    # Installed with a key that the balancer was not told of: they are refused, and wait, until it is.
    bring(f"{KEYS}/balancer.pub", two, three)
    three.run(*first, "--no-start", "--raters", "2", "rater")
    three.run("systemctl", "start", "--no-block", "ratel.target")
    wait_for(
        lambda: "refused peer=10.0.0.3" in two.journal("--unit=ratel-balancer"), "the raters to be refused"
    )
    wait_for(lambda: "our key rater-host3" in three.journal("--unit=ratel-rater@1"), "the raters to be told")
    assert three.show("ratel-rater@1.service", "ActiveState") == "activating"
    assert two.show("ratel-balancer.service", "StatusText").startswith("listening, 0 raters")
    bring(f"{KEYS}/rater-host3.pub", three, two)
    two.run("ratel", "keys", "allow", f"/{KEYS}/rater-host3.pub")
    print(three.run(*first, "--raters", "2", "rater"))

    assert "picked up by 2 raters" in one.run("ratel", "load", "/root/deploy/sample-tariff")
    assert debit(three, "10.0.0.2", key) == 999_900

    get_keys_under_load(two, three, key)
    assert debit(three, "10.0.0.2", key) < 999_900

    # Balancers may share a key, so that raters need to know but one.
    for name in ("balancer.key", "balancer.pub", "authorized/rater-host3.pub"):
        bring(f"{KEYS}/{name}", two, one)
    bring("etc/ratel/api-keys.json", two, one)
    one.run("/root/deploy/install.sh", "--listen", "10.0.0.1", "store", "balancer")
    three.run("sed", "-i", balancers.replace('["', '["10.0.0.1:2000", "'), "/etc/ratel/ratel.toml")
    print(three.run("ratel", "roll", "raters", "--ask", "http://10.0.0.2:8000"))
    both = "tariff epoch 1, 2 of 2 balancers joined"
    wait_for(lambda: three.show("ratel-rater@2.service", "StatusText") == both, both)
    left = debit(one, "10.0.0.2", key)
    two.power_off()
    assert debit(three, "10.0.0.1", key) == left - 100
