"""A host from nothing: installed, rebooted, struck, upgraded, and taken down again, with its own systemd.

`make test-systemd`. The tests share a machine; each leaves it with two raters that are ready.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.systemd.conftest import load, newer_wheel, wheel_of
from tests.systemd.machine import Machine, wait_for

pytestmark = [pytest.mark.alone, pytest.mark.timeout(900)]

RATERS = ("ratel-rater@1.service", "ratel-rater@2.service")
UNITS = ("ratel-store.service", "ratel-balancer.service", *RATERS)
WATCHDOG_S = 15.0
START_S = 60.0


def install(machine: Machine, *words: str) -> str:
    return machine.run("/root/deploy/install.sh", *words)


def states(machine: Machine) -> dict[str, str]:
    return {unit: machine.show(unit, "ActiveState") for unit in UNITS}


def all_ready(machine: Machine) -> bool:
    return set(states(machine).values()) == {"active"}


def pids(machine: Machine) -> dict[str, str]:
    return {unit: machine.show(unit, "MainPID") for unit in UNITS}


def balance(machine: Machine) -> int:
    """By a read that needs a rater, a tariff and the store."""
    url = "http://127.0.0.1:8000/debitbalance?cstmid=vdf&subj=rif&dest=0257&amount=1"
    return int(machine.run("curl", "--silent", "--fail", "-X", "POST", "--max-time", "30", url))


@pytest.fixture(scope="module")
def host(machine: Machine) -> Machine:
    """With Ratel on it, and the sample tariff."""
    print(
        install(machine, "--wheel", wheel_of(machine), "--wheelhouse", "/root/wheels", "--raters", "2", "all")
    )
    print(machine.run("ratel", "load", "/root/deploy/sample-tariff"))
    return machine


@pytest.fixture(autouse=True)
def ready(host: Machine) -> Iterator[None]:
    wait_for(lambda: all_ready(host), "all units to be ready", START_S)
    yield
    wait_for(lambda: all_ready(host), "all units to be ready again", START_S)


def test_everything_is_ready_and_says_what_it_does(host: Machine) -> None:
    assert balance(host)
    said = "listening, 2 raters take work, tariff epoch 1"
    wait_for(lambda: host.show("ratel-balancer.service", "StatusText") == said, said)
    for rater in RATERS:
        assert host.show(rater, "StatusText") == "tariff epoch 1, 1 of 1 balancers joined"
    assert host.run("systemctl", "list-units", "--failed", "--no-legend", "ratel*") == ""


def test_the_files_of_the_units_are_right(host: Machine) -> None:
    done = host.try_run("systemd-analyze", "verify", *UNITS, "ratel-gateway@1.service")
    assert (done.returncode, [line for line in done.stderr.splitlines() if "ratel" in line]) == (0, [])


def test_a_second_installation_changes_nothing(host: Machine) -> None:
    before = pids(host)
    said = install(host, "--wheel", wheel_of(host), "--wheelhouse", "/root/wheels", "--raters", "2", "all")
    assert pids(host) == before
    assert "0 installed" not in said
    assert " is there" in said


def test_what_runs_can_write_nowhere_but_in_its_own_temporary_folders(host: Machine) -> None:
    for unit in ("ratel-balancer.service", *RATERS):
        found = host.run(
            *("nsenter", "--target", host.show(unit, "MainPID"), "--mount", "--root", "--"),
            *("setpriv", "--reuid=ratel", "--regid=ratel", "--clear-groups", "--bounding-set=-all", "--"),
            *("sh", "-c", "find / -path /proc -prune -o -writable -not -type l -print 2>/dev/null; true"),
        ).split()
        devices = {
            "/dev/null",
            "/dev/zero",
            "/dev/full",
            "/dev/random",
            "/dev/urandom",
            "/dev/tty",
            "/dev/ptmx",
        }
        sockets = {path for path in found if path.startswith("/run/") and host.try_run("test", "-S", path)}
        assert set(found) - devices - sockets - {"/dev/pts/ptmx"} <= {
            "/tmp",
            "/var/tmp",
            "/dev/shm",
            "/dev/mqueue",
        }


def test_what_runs_cannot_read_the_secrets_of_others(host: Machine) -> None:
    for unit in ("ratel-balancer.service", *RATERS):
        reached = host.try_run(
            *("nsenter", "--target", host.show(unit, "MainPID"), "--mount", "--root", "--"),
            *("setpriv", "--reuid=ratel", "--regid=ratel", "--clear-groups", "--"),
            *("ls", "/etc/ratel/credentials", "/etc/ratel/store", "/var/lib/ratel-store"),
        )
        assert reached.stdout == ""
        assert reached.stderr.count("Permission denied") == 3


def test_a_rater_can_speak_with_this_host_alone(host: Machine) -> None:
    host.run("ip", "address", "add", "10.99.0.1/32", "dev", "lo")
    program = (
        "import socket, sys\n"
        "open(sys.argv[1] + '/cgroup.procs', 'w').write('0') if sys.argv[1] else None\n"
        "for host in ('127.0.0.1', '10.99.0.1'):\n"
        "    listener = socket.create_server((host, 0))\n"
        "    try:\n"
        "        socket.create_connection(listener.getsockname(), 2).close()\n"
        "        print('reached')\n"
        "    except TimeoutError:\n"
        "        print('nothing')\n"
    )
    group = "/sys/fs/cgroup" + host.show(RATERS[0], "ControlGroup")
    assert host.run("python3", "-c", program, "").split() == ["reached", "reached"]
    assert host.run("python3", "-c", program, group).split() == ["reached", "nothing"]


def test_a_rater_that_is_killed_is_back_and_no_request_fails(host: Machine) -> None:
    before = pids(host)
    report: dict[str, Any] = {}
    with load(host, report):
        host.run("systemctl", "kill", "--signal=KILL", "--kill-whom=main", RATERS[0])
        wait_for(lambda: all_ready(host) and pids(host) != before, "the rater to be back", START_S)
    assert {unit for unit, pid in pids(host).items() if pid != before[unit]} == {RATERS[0]}
    assert report["failed"] == 0
    assert report["done"]["http"]
    assert report["done"]["jsonrpc"]


@pytest.mark.parametrize("unit", [RATERS[0], "ratel-balancer.service"])
def test_what_stands_still_is_restarted_by_the_watchdog(unit: str, host: Machine) -> None:
    before, began = host.show(unit, "MainPID"), host.run("date", "+%s").strip()
    host.run("kill", "-STOP", before)
    wait_for(
        lambda: host.show(unit, "MainPID") not in (before, "0") and all_ready(host),
        "the watchdog to have it restarted",
        WATCHDOG_S + START_S,
    )
    said = host.journal("--unit", unit, f"--since=@{began}")
    assert "Watchdog timeout" in said
    # Where it stood is said: its threads' stacks.
    assert "Fatal Python error: Aborted" in said
    assert balance(host)


def test_raters_wait_for_a_store_without_failing_and_go_on_when_it_is_there(host: Machine) -> None:
    host.run("systemctl", "stop", "ratel-store.service")
    host.run("systemctl", "restart", "--no-block", *RATERS)
    wait_for(
        lambda: all(host.show(rater, "StatusText") == "waiting for the store" for rater in RATERS),
        "the raters to wait",
    )
    restarts = [host.show(rater, "NRestarts") for rater in RATERS]
    assert [host.show(rater, "ActiveState") for rater in RATERS] == ["activating", "activating"]
    host.run("systemctl", "start", "ratel-store.service")
    wait_for(lambda: all_ready(host), "the raters to be ready", START_S)
    assert [host.show(rater, "NRestarts") for rater in RATERS] == restarts
    assert balance(host)


def test_a_wrong_setting_stops_the_start_with_one_line_and_is_not_tried_again(host: Machine) -> None:
    settings = host.folder / "etc/ratel/ratel.env"
    before = settings.read_text() if settings.exists() else None
    try:
        with settings.open("a") as file:
            file.write("RATEL_DURABILITY=sometimes\n")
        host.try_run("systemctl", "restart", RATERS[0])
        assert host.show(RATERS[0], "ActiveState") == "failed"
        assert host.show(RATERS[0], "ExecMainStatus") == "2"
        assert "'sometimes' is not one of" in host.journal("--unit", RATERS[0], "--lines=20")
    finally:
        settings.unlink() if before is None else settings.write_text(before)
        host.run("systemctl", "restart", RATERS[0])


def test_raters_are_added_and_removed_under_load(host: Machine) -> None:
    report: dict[str, Any] = {}
    with load(host, report):
        install(host, "--raters", "3", "all")
        assert host.show("ratel-rater@3.service", "ActiveState") == "active"
        install(host, "--raters", "2", "all")
        assert host.show("ratel-rater@3.service", "ActiveState") == "inactive"
    assert report["failed"] == 0


def test_keys_for_the_first_time_under_load(host: Machine) -> None:
    """A cluster without them, as it was before there were any, gets them, and no request fails."""
    for unit in ("ratel-balancer", "ratel-rater@", "ratel-gateway@"):
        host.run("rm", f"/etc/systemd/system/{unit}.service.d/40-keys.conf")
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "restart", "ratel-balancer.service", *RATERS)
    assert balance(host)
    report: dict[str, Any] = {}
    with load(host, report):
        said = install(host, "--raters", "2", "all")
        assert "with keys from now on" in said
        wait_for(lambda: all_ready(host), "everything to be ready with keys", START_S)
    assert report["failed"] == 0
    assert host.show("ratel-rater@3.service", "ActiveState") == "inactive"
    for unit in ("ratel-balancer.service", *RATERS):
        pid = host.show(unit, "MainPID")
        assert "_CURVE_KEY=/run/credentials/" in host.run("cat", f"/proc/{pid}/environ")


def test_a_rater_without_a_key_or_with_an_unknown_one_is_refused(host: Machine) -> None:
    store = "redis://ratel-rater@127.0.0.1:6379/0"
    password = "/etc/ratel/credentials/ratel-rater.password"
    rater = ["timeout", "5", "/opt/ratel/current/bin/ratel", "rater", "--store", store]
    rater += ["--store-password-file", password, "--balancer", "127.0.0.1:2000"]
    host.run("ratel", "keys", "new", "stranger", "--role", "rater", "--dir", "/root/stranger")
    keys = [
        "--curve-key",
        "/root/stranger/stranger.key",
        "--curve-server-key",
        "/etc/ratel/keys/balancer.pub",
    ]
    said = host.try_run(*rater)
    # Whichever end sees first that they don't fit hangs up, and the other may see no more than that.
    assert "it wants a key, and we have none" in said.stdout + said.stderr
    said = host.try_run(*rater, *keys)
    assert "our key stranger" in said.stdout + said.stderr
    assert "is not authorized" in host.journal("--unit=ratel-balancer", "--lines=50")
    assert host.show("ratel-balancer.service", "StatusText").startswith("listening, 2 raters")


def test_a_gateway_has_a_key_too(host: Machine) -> None:
    ports = host.folder / "etc/systemd/system/ratel-gateway@.service.d/60-ports.conf"
    try:
        # Beside the balancer, on ports of its own.
        drop_in = "[Service]\nEnvironment=RATEL_HTTP=127.0.0.1:8010 RATEL_JSONRPC=127.0.0.1:2011\n"
        ports.write_text(drop_in)
        host.run("systemctl", "daemon-reload")
        host.run("systemctl", "start", "ratel-gateway@1.service")
        url = "http://127.0.0.1:8010/getmaxsessiontime?cstmid=vdf&subj=rif&dest=0257&amount=100"
        wait_for(
            lambda: host.try_run("curl", "--silent", "--fail", url).stdout == "100", "an answer through it"
        )
        assert "ratel-gateway@1.service  restarted in" in host.run("ratel", "roll", "gateways")
        assert host.run("curl", "--silent", "--fail", url) == "100"
    finally:
        host.run("systemctl", "stop", "ratel-gateway@1.service")
        ports.unlink()
        host.run("systemctl", "daemon-reload")


def test_what_was_installed_is_what_runs(host: Machine) -> None:
    compiled = not wheel_of(host).endswith("-none-any.whl")
    assert host.run("ratel", "--version").endswith(", compiled\n") == compiled
    for unit in UNITS[1:]:
        maps = host.run("cat", f"/proc/{pids(host)[unit]}/maps")
        assert ("ratel__mypyc" in maps) == compiled, unit


def test_an_upgrade_and_the_way_back_under_load(host: Machine) -> None:
    version = host.run("ratel", "--version")
    before = pids(host)
    report: dict[str, Any] = {}
    with load(host, report):
        wheel = newer_wheel(host, "99.1")
        print(install(host, "--wheel", wheel, "--wheelhouse", "/root/wheels", "--raters", "2", "all"))
        upgraded = pids(host)
        assert host.run("ratel", "--version").replace(", compiled", "") == "ratel 99.1\n"
        print(install(host, "--rollback"))
    assert report["failed"] == 0
    assert host.run("ratel", "--version") == version
    after = pids(host)
    for unit in UNITS[1:]:
        assert len({before[unit], upgraded[unit], after[unit]}) == 3
    assert before["ratel-store.service"] == after["ratel-store.service"]


def test_after_a_reboot_everything_is_there_again(host: Machine) -> None:
    left = balance(host)
    host.reboot()
    wait_for(lambda: all_ready(host), "all units to be ready", START_S)
    assert balance(host) == left - 1
    assert host.run("systemctl", "list-units", "--failed", "--no-legend", "ratel*") == ""


def test_removed_and_installed_again_the_accounts_are_still_there(host: Machine) -> None:
    left = balance(host)
    secret = host.run("cat", "/etc/ratel/credentials/ratel-rater.password")
    print(install(host, "--uninstall"))
    assert (
        host.run(
            "sh", "-c", "ls -d /opt/ratel /etc/systemd/system/ratel* /usr/local/bin/ratel 2>/dev/null; true"
        )
        == ""
    )
    assert "ratel" not in host.run("ps", "-eo", "args=").replace("ratel-", "-")
    install(host, "--wheel", wheel_of(host), "--wheelhouse", "/root/wheels", "--raters", "2", "all")
    assert host.run("cat", "/etc/ratel/credentials/ratel-rater.password") == secret
    assert balance(host) == left - 1
