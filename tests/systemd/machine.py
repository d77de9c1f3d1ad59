"""A Debian machine with systemd as its first process: debootstrap makes it, systemd-nspawn boots it.

Its network is its own, too: nothing but a loopback interface. Commands go in by nsenter, since no machine
manager has to run on the host for that. What is made outside the folder is gone after `close`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from common.process.child import die_with_parent

ROOT: Final = Path(__file__).resolve().parents[2]
CACHE: Final = ROOT / "var" / "systemd"
SUITE: Final = os.environ.get("RATEL_TEST_SUITE", "bookworm")
"""Which Debian, by debootstrap's name for it."""
STORES: Final = {"bookworm": ("redis-server", "redis-sentinel")}
"""Packages of a store and its sentinels, by suite; newer ones have Valkey."""
STORE_PACKAGES: Final = STORES.get(SUITE, ("valkey-server", "valkey-sentinel"))
PACKAGES: Final = ",".join(
    ("systemd,systemd-sysv,dbus,python3,python3-venv,curl,iproute2,procps", *STORE_PACKAGES)
)
TOOLS: Final = ("debootstrap", "systemd-nspawn", "nsenter")
ASKED_FOR: Final = "RATEL_TEST_SYSTEMD"
BOOT_WITHIN_S: Final = 120.0
OFF_WITHIN_S: Final = 120.0
POWEROFF: Final = signal.SIGRTMIN + 4
"""What systemd as the first process takes for this request; systemd(1)."""


def why_not() -> str | None:
    """What this host lacks for it, or that nobody asked for it."""
    if os.environ.get(ASKED_FOR) != "1":
        return "`make test-systemd` runs these"
    if os.geteuid() != 0:
        return "machines are booted by root only"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"not here: {', '.join(missing)} (apt-get install debootstrap systemd-container util-linux)"
    return None


def base_tree() -> Path:
    """The tree that machines are copies of, made at the first time. Takes two minutes then."""
    tree = CACHE / f"{SUITE}-base"
    if not tree.exists():
        unfinished = tree.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        CACHE.mkdir(parents=True, exist_ok=True)
        with (CACHE / "debootstrap.log").open("wb") as log:
            subprocess.run(
                ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(unfinished)],
                check=True,
                stdout=log,
                stderr=log,
            )
        unfinished.rename(tree)
    return tree


class Machine:
    def __init__(
        self, folder: Path, *, within: Sequence[str] = (), network: str = "--private-network"
    ) -> None:
        """`within` goes before the command of nspawn: `nsenter --net=…` for a network with other machines."""
        self.folder = folder
        self._within = within
        self._network = network
        self.log = folder.with_suffix(".log")
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._leader = 0
        self._groups = [
            Path(mount) / f"ratel-{os.getpid()}-{folder.name}"
            for _, mount, kind, options in _mounts()
            if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options)
        ]

    def make(self) -> None:
        subprocess.run(["cp", "-a", "--reflink=auto", str(base_tree()), str(self.folder)], check=True)
        (self.folder / "etc/hostname").unlink()  # it is that of the host which made the tree
        # The distribution's own store would take the port; /etc/machine-id is made at the first boot.
        units = self.folder / "etc/systemd/system"
        for kind, program in itertools.product(("redis", "valkey"), ("", "-server", "-sentinel")):
            name = f"{kind}{program}.service"
            for path in (units / name, units / "multi-user.target.wants" / name):
                path.unlink(missing_ok=True)

    def boot(self) -> None:
        """Returns when it is up; units of its own that failed are left to the caller to find."""
        for group in self._groups:
            group.mkdir(exist_ok=True)
        with self.log.open("ab") as log:
            self._nspawn = subprocess.Popen(
                [
                    *self._within,
                    "systemd-nspawn",
                    "--boot",
                    "--register=no",
                    "--keep-unit",
                    f"--directory={self.folder}",
                    f"--machine={self.folder.name}",
                    self._network,
                    "--link-journal=no",
                    # What its systemd needs for IPAddressDeny=, which is a program in the kernel.
                    "--capability=CAP_BPF,CAP_NET_ADMIN,CAP_PERFMON",
                    "--system-call-filter=bpf",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
                preexec_fn=self._enter_groups,
            )
        self.wait_until_up()

    def _enter_groups(self) -> None:
        die_with_parent()
        for group in self._groups:
            (group / "cgroup.procs").write_text(str(os.getpid()))

    def wait_until_up(self) -> None:
        def is_up() -> bool:
            assert self._nspawn is not None
            assert self._nspawn.poll() is None, self.log.read_text(errors="replace")[-3000:]
            children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split()
            if not children:
                return False
            self._leader = int(children[0])
            state = self.try_run("systemctl", "is-system-running").stdout.strip()
            return state in ("running", "degraded")

        wait_for(is_up, "the machine to be up", BOOT_WITHIN_S)

    def reboot(self) -> None:
        """Down in order, and up again: nspawn's own way to do both at once wants a manager on the host."""
        self.power_off()
        self.boot()

    def cut_power(self) -> None:
        """Everything is gone at once; nobody was told."""
        assert self._nspawn is not None
        os.kill(self._leader, signal.SIGKILL)
        self._nspawn.wait(OFF_WITHIN_S)

    def power_off(self) -> None:
        if self._nspawn is None or self._nspawn.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._leader, POWEROFF)
        try:
            self._nspawn.wait(OFF_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._nspawn.kill()
            self._nspawn.wait()
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._leader, signal.SIGKILL)

    def close(self) -> None:
        self.power_off()
        for group in self._groups:
            for inner, _, _ in os.walk(group, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(inner)

    def remove(self) -> None:
        self.close()
        subprocess.run(["rm", "-rf", "--one-file-system", str(self.folder)], check=True)

    def command(self, *words: str) -> list[str]:
        return ["nsenter", "--target", str(self._leader), "--all", "--root", "--wd", "--", *words]

    def try_run(self, *words: str, timeout_s: float = 300.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words),
            check=False,
            text=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
        )

    def run(self, *words: str, timeout_s: float = 300.0) -> str:
        """What it prints. Asserts that it succeeded."""
        done = self.try_run(*words, timeout_s=timeout_s)
        assert done.returncode == 0, f"{' '.join(words)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def show(self, unit: str, name: str) -> str:
        return self.run("systemctl", "show", "--property", name, "--value", unit).strip()

    def journal(self, *words: str) -> str:
        return self.run("journalctl", "--no-pager", "--output=cat", *words)


def wait_for(condition: Callable[[], bool], what: str, within_s: float = 60.0) -> None:
    until_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until_s, f"waited {within_s:g} s for {what}"
        time.sleep(0.1)


def _mounts() -> list[list[str]]:
    return [line.split()[:4] for line in Path("/proc/mounts").read_text().splitlines()]
