"""Machines are slow to make, so there is one for all tests; each test leaves it running as it found it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.systemd.machine import CACHE, ROOT, Machine, why_not

WHEELS = Path(os.environ.get("RATEL_TEST_WHEELHOUSE", ROOT / "dist" / "wheelhouse"))


def new_machine(name: str, **network: Any) -> Machine:
    """Not booted yet, with what is to be installed in /root: the wheels, and the folder deploy."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    if not list(WHEELS.glob("ratel-*.whl")):
        pytest.skip("no wheels: make wheelhouse")
    machine = Machine(CACHE / name, **network)
    machine.remove()
    machine.make()
    shutil.copytree(ROOT / "deploy", machine.folder / "root/deploy")
    shutil.copytree(WHEELS, machine.folder / "root/wheels")
    shutil.copy(Path(__file__).with_name("load.py"), machine.folder / "root/load.py")
    return machine


@pytest.fixture(scope="session")
def machine() -> Iterator[Machine]:
    machine = new_machine("machine")
    try:
        machine.boot()
        yield machine
    finally:
        machine.remove()


@pytest.fixture
def hosts() -> Iterator[list[Machine]]:
    """Three, with the addresses 10.0.0.1 to 10.0.0.3 on a bridge that is nowhere else."""
    machines: list[Machine] = []
    namespace = f"ratel-{os.getpid()}"
    inside = ["nsenter", f"--net=/run/netns/{namespace}", "--"]
    try:
        for number in (1, 2, 3):
            machines.append(new_machine(f"host{number}", within=inside, network="--network-bridge=bridge"))
        subprocess.run(["ip", "netns", "add", namespace], check=True)
        subprocess.run([*inside, "ip", "link", "add", "bridge", "type", "bridge"], check=True)
        subprocess.run([*inside, "ip", "link", "set", "bridge", "up"], check=True)
        for number, machine in enumerate(machines, 1):
            machine.boot()
            machine.run("ip", "address", "add", f"10.0.0.{number}/24", "dev", "host0")
            machine.run("ip", "link", "set", "host0", "up")
        yield machines
    finally:
        for machine in machines:
            machine.remove()
        subprocess.run(["ip", "netns", "delete", namespace], check=False)


@contextlib.contextmanager
def load(machine: Machine, report: dict[str, Any], *where: str) -> Iterator[None]:
    """Debits while the block runs; then the report is filled in. `where`: its address, an API key."""
    process = subprocess.Popen(
        machine.command("/opt/ratel/current/bin/python", "/root/load.py", "300", *where),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        time.sleep(0.5)
        yield
        time.sleep(0.5)
        said, _ = process.communicate("", timeout=120)
        report.update(json.loads(said))
    finally:
        process.kill()
        process.wait()
    print(report)


def wheel_of(machine: Machine) -> str:
    return f"/root/wheels/{the_wheel().name}"


def the_wheel() -> Path:
    """The compiled one, where there are both (`make test-systemd COMPILED=1`)."""
    return min(WHEELS.glob("ratel-*.whl"), key=lambda wheel: wheel.name.endswith("-none-any.whl"))


def newer_wheel(machine: Machine, version: str) -> str:
    """The same program under another version, as an upgrade has it."""
    wheel = the_wheel()
    old = wheel.name.split("-")[1]
    target = machine.folder / "root/wheels" / wheel.name.replace(f"-{old}-", f"-{version}-", 1)
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(target, "w") as made:
        record = ""
        for old_name in source.namelist():
            content = source.read(old_name)
            name = old_name.replace(f"ratel-{old}.dist-info/", f"ratel-{version}.dist-info/")
            if name.endswith("/METADATA"):
                content = content.replace(f"\nVersion: {old}\n".encode(), f"\nVersion: {version}\n".encode())
            if name.endswith("/RECORD"):
                record = name
                continue
            made.writestr(name, content)
        made.writestr(record, "".join(f"{name},,\n" for name in (*made.namelist(), record)))
    return f"/root/wheels/{target.name}"
