"""High availability as docs/deploy.md sets it up: a store and a sentinel on each of three hosts.

The host of the primary loses its power under load. Debits go on, each once, and it comes back as a replica.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time

import pytest

from tests.systemd.conftest import wheel_of
from tests.systemd.machine import Machine, wait_for

pytestmark = [pytest.mark.alone, pytest.mark.timeout(900)]

SENTINELS = "10.0.0.1:26379,10.0.0.2:26379,10.0.0.3:26379"
FAILOVER_S = 10.0
"""As docs/reliability.md promises; three times that here, since machines that run tests are noisy."""


def ask(machine: Machine, port: int, user: str, *words: str) -> str:
    """What the store or the sentinel of this machine answers; nothing while it does not."""
    password = machine.run("cat", f"/etc/ratel/credentials/{user}.password").strip()
    cli = "valkey-cli" if (machine.folder / "usr/bin/valkey-cli").exists() else "redis-cli"
    return machine.try_run(
        *("env", f"REDISCLI_AUTH={password}", cli, "--no-auth-warning", "--user", user, "-p", str(port)),
        *words,
    ).stdout


def role(machine: Machine) -> str:
    return ask(machine, 6379, "ratel-operator", "role").partition("\n")[0]


def use_group(machine: Machine) -> None:
    """The lines of docs/deploy.md."""
    settings = "/etc/ratel/ratel.toml"
    for user in ("operator", "rater"):
        there = f"redis+sentinel://ratel-{user}@{SENTINELS}/ratel?sentinel_user=ratel-{user}"
        machine.run("sed", "-i", f"s|redis://ratel-{user}@127.0.0.1:6379/0|{there}|", settings)
    machine.run("sed", "-i", 's|^#level = "everysec"|level = "replicated"|', settings)


def audit(machine: Machine) -> str:
    return machine.run("ratel", "audit")


def balance(machine: Machine) -> int:
    url = "http://127.0.0.1:8000/debitbalance?cstmid=vdf&subj=rif&dest=0257&amount=1"
    return int(machine.run("curl", "--silent", "--fail", "-X", "POST", "--max-time", "30", url))


def test_the_primarys_host_loses_its_power_and_debits_go_on(hosts: list[Machine]) -> None:
    one, two, three = hosts
    words = ["/root/deploy/install.sh", "--wheel", wheel_of(one), "--wheelhouse", "/root/wheels"]
    words += ["--network", "10.0.0.0/24", "--primary", "10.0.0.1"]
    refused = two.try_run(*words, "store", "sentinel")
    assert refused.returncode == 1
    assert "share their passwords: copy /etc/ratel/credentials from 10.0.0.1" in refused.stderr
    print(one.run(*words, "store", "sentinel"))
    for machine in (two, three):
        shutil.rmtree(machine.folder / "etc/ratel/credentials", ignore_errors=True)
        shutil.copytree(one.folder / "etc/ratel/credentials", machine.folder / "etc/ratel/credentials")
        print(machine.run(*words, "store", "sentinel"))
    wait_for(lambda: (role(one), role(two), role(three)) == ("master", "slave", "slave"), "the replicas")

    print(two.run("/root/deploy/install.sh", "--no-start", "--raters", "2", "rater", "balancer"))
    use_group(two)
    assert "nothing is wrong" in two.run("ratel", "config", "check")
    print(two.run("/root/deploy/install.sh", "--raters", "2", "rater", "balancer"))
    print(two.run("ratel", "load", "/root/deploy/sample-tariff"))
    before = balance(two)

    shutil.copy(__file__.replace("test_group", "keyed_load"), two.folder / "root/keyed_load.py")
    load = subprocess.Popen(
        two.command("/opt/ratel/current/bin/python", "/root/keyed_load.py", "6"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert load.stdout is not None
        assert load.stdout.readline() == "started\n"
        time.sleep(3)
        one.cut_power()
        time.sleep(FAILOVER_S)
        report = json.loads(load.communicate("", timeout=120)[0])
    finally:
        load.kill()
        load.wait()
    print(report)
    assert report["open"] == []
    assert 0.5 < report["pause_s"] < 3 * FAILOVER_S
    assert before - balance(two) == report["acknowledged"] + 1
    print(audit(two))
    assert sorted((role(two), role(three))) == ["master", "slave"]

    # It comes back as it was, a primary, and is told; and what was written meanwhile is there, too.
    one.boot()
    one.run("ip", "address", "add", "10.0.0.1/24", "dev", "host0")
    one.run("ip", "link", "set", "host0", "up")
    wait_for(lambda: role(one) == "slave", "the former primary to be a replica")
    # Who is whose replica is remembered, by sentinels and by stores.
    primary, other = (two, three) if role(two) == "master" else (three, two)
    for machine in (other, one):
        machine.run("systemctl", "restart", "ratel-store.service", "ratel-sentinel.service")
        assert role(machine) == "slave"
    primary.run("systemctl", "restart", "ratel-sentinel.service")
    assert role(primary) == "master"
    assert balance(two) == before - report["acknowledged"] - 2
    assert len(audit(two)) > 0
