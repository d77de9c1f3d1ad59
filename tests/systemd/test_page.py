"""docs/deploy.md, typed from top to bottom, on one host and then on three, and what it prints compared."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomlkit

from tests.docs.blocks import compact, pattern
from tests.systemd.conftest import new_machine
from tests.systemd.machine import ROOT, STORE_PACKAGES, SUITE, Machine, base_tree
from tests.systemd.page import IN_TEXT, ONE, SOURCES, STOOD_IN_FOR, THREE, File, Typed, steps

pytestmark = [pytest.mark.alone, pytest.mark.timeout(1800)]

ON_DEBIAN_12 = ("redis-server", "redis-cli")
ADDRESSES = {f"10.0.0.{host[-1]}": host for host in THREE}


@pytest.fixture
def machines(hosts: list[Machine]) -> Iterator[dict[str, Machine]]:
    """The one host, with the store of Debian as its package leaves it, and the three."""
    one = new_machine(ONE)
    try:
        wants = f"etc/systemd/system/multi-user.target.wants/{STORE_PACKAGES[0]}.service"
        shutil.copy(base_tree() / wants, one.folder / wants, follow_symlinks=False)
        one.boot()
        found = {ONE: one, **dict(zip(THREE, hosts, strict=True))}
        for machine in found.values():
            (machine.folder / "root/wheels").rename(machine.folder / "root/wheelhouse")
        yield found
    finally:
        one.remove()


def of_this_suite(text: str) -> str:
    """The page is that of Debian 12; on a newer one the store has another name."""
    for name in ON_DEBIAN_12 if SUITE != "bookworm" else ():
        text = text.replace(name, name.replace("redis", "valkey"))
    return text


def shell(step: Typed, machines: dict[str, Machine]) -> tuple[str, int]:
    """What is printed, as a terminal would show it, and the exit code."""
    command = of_this_suite(step.command)
    if step.where == SOURCES:
        done = subprocess.run(
            ["bash", "-c", f"exec 2>&1; {command}"],
            cwd=ROOT,
            env=os.environ | {"LC_ALL": "C"},
            capture_output=True,
            text=True,
            check=False,
        )
    else:
        done = machines[step.where].try_run("bash", "-c", f"exec 2>&1; cd /root; {command}")
    return "".join(f"{line}\n" for line in done.stdout.splitlines()), done.returncode


def secure_copy(step: Typed, machines: dict[str, Machine]) -> None:
    """`scp [-r] ADDRESS:PATH… TARGET`, between the machines' trees: files get modes, not owners."""
    *sources, target = [word for word in shlex.split(step.command)[1:] if word != "-r"]
    to = machines[step.where].folder / "root" / target.lstrip("/") if target == "." else None
    to = to or machines[step.where].folder / target.lstrip("/")
    for source in sources:
        address, _, path = source.partition(":")
        tree = machines[ADDRESSES[address]].folder
        files = sorted(map(str, tree.glob(path.lstrip("/"))))
        assert files, f"{step.command}: there is no such file"
        subprocess.run(["cp", "-r", *files, str(to)], check=True)


def write(step: File, machine: Machine) -> None:
    """A file as it stands on the page; of one that is there already, those settings."""
    path = machine.folder / step.path.lstrip("/")
    if path.exists() and path.suffix == ".toml":
        whole, new = tomlkit.parse(path.read_text()), tomlkit.parse(step.text).unwrap()
        for section, settings in new.items():
            whole.setdefault(section, tomlkit.table()).update(settings)
        path.write_text(tomlkit.dumps(whole))
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(step.text)


def place(step: Typed) -> str:
    return f"docs/deploy.md, the block of line {step.line}: {step.where}# {step.command}"


def difference(step: Typed, output: str) -> str | None:
    printed = tuple(map(of_this_suite, step.printed))
    if re.fullmatch(pattern(printed), compact(output)):
        return None
    shown = "".join(f"{line}\n" for line in printed)
    return f"{place(step)}\nthe page shows\n{shown}and what is printed is\n{output}"


def test_the_page_shows_what_its_commands_print(machines: dict[str, Machine]) -> None:
    wrong = []
    for step in steps():
        if isinstance(step, File):
            write(step, machines[step.where])
        elif step.command.startswith(f"{STOOD_IN_FOR} "):
            secure_copy(step, machines)
        else:
            output, code = shell(step, machines)
            print(f"{step.where}# {step.command}\n{output}", end="", flush=True)
            differs = difference(step, output)
            # A command that prints nothing is compared, too; one that fails says so on the page.
            wrong += [differs] if differs else []
            if code and not step.printed:
                wrong.append(f"{place(step)}\nexit code {code}")
    for in_text, filled_in in IN_TEXT.items():
        step = Typed(0, ONE, filled_in or in_text, ("…",))
        output, code = shell(step, machines)
        print(f"{ONE}# {step.command}\n{output}", end="", flush=True)
        if code:
            wrong.append(f"in the text: {step.command}: exit code {code}\n{output}")
    assert not wrong, "\n".join(wrong)


def test_a_copy_has_the_modes_of_its_source(tmp_path: Path) -> None:
    machines = {host: Machine(tmp_path / host) for host in THREE}
    for machine in machines.values():
        (machine.folder / "etc/credentials").mkdir(parents=True)
    secret = machines["host1"].folder / "etc/credentials/a.password"
    secret.write_text("secret")
    secret.chmod(0o600)
    secure_copy(Typed(1, "host2", "scp 10.0.0.1:/etc/credentials/*.password /etc/credentials/", ()), machines)
    copied = machines["host2"].folder / "etc/credentials/a.password"
    assert (copied.read_text(), copied.stat().st_mode & 0o777) == ("secret", 0o600)
