"""What docs/deploy.md has its reader type, and on which machine: all of it, in order, and in its text.

A console block's prompt says where: `# ` is root on the one host, `host2# ` root on one of three, `$ ` where
the sources are. A block with a title is a file of the one host, or, with `host3: ` before, of that one. What
a line prints is written as on other pages, see tests/docs/blocks.py.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from tests.docs.blocks import RUN, Block, blocks
from tests.docs.pages import DOCS

PAGE: Final = DOCS / "deploy.md"
ONE: Final = "node1"
THREE: Final = ("host1", "host2", "host3")
SOURCES: Final = "sources"
_PROMPT: Final = re.compile(r"(?:(?P<host>host\d+)?# |(?P<sources>\$) )(?P<command>.+)")
_PLACE: Final = re.compile(r"(?:(?P<host>\w+): )?(?P<path>/\S+)")

NOT_TYPED: Final = ("make wheelhouse", "make wheelhouse FOR=3.13", "kill -HUP 14969")
"""With `podman`'s lines, all that stands in blocks and isn't typed; why is said on the page."""
STOOD_IN_FOR: Final = "scp"
"""The machines have no ssh: the files are copied from one machine's tree to the other's."""

IN_TEXT: Final = {
    "ratel --version": "",
    "ratel config check": "",
    "ratel config show": "",
    "ratel keys list": "",
    "ratel apikey": "ratel apikey --help",
    "systemctl status": "",
    "systemctl status ratel-rater@1": "",
    "systemctl status 'ratel-*'": "",
    "journalctl -u 'ratel-*'": "",
    "systemd-analyze security ratel-rater@1": "",
    "ratel roll": "ratel roll --help",
    "ratel roll raters": "",
    "ratel roll balancer": "",
    "ratel roll all": "",
    "install.sh --raters N rater": "deploy/install.sh --raters 3 rater",
    "systemctl disable --now ratel-rater@N": "systemctl disable --now ratel-rater@3",
    "systemctl enable --now ratel-rater@N": "systemctl enable --now ratel-rater@3",
    "systemctl restart ratel-balancer": "",
    "sysctl net.ipv4.tcp_migrate_req=1": "",
    "systemctl disable --now ratel-balancer-{jsonrpc,http,router}.socket ratel-balancer": "",
}
"""Commands in the text and its tables, which are typed on the one host after the page's blocks: as they
stand, or with what they leave open filled in."""
ELSEWHERE: Final = {
    "install.sh --listen": ("docs/deploy.md", "--listen 10.0.0.2 balancer"),
    "install.sh --network": ("docs/deploy.md", "--network 10.0.0.0/24"),
    "install.sh --wheel": ("docs/deploy.md", "deploy/install.sh --wheel"),
    "install.sh --no-start …": ("tests/systemd/test_hosts.py", '"--no-start"'),
    "install.sh --rollback": ("tests/systemd/test_units.py", '"--rollback"'),
    "systemctl start --no-block ratel-rater@N": (
        "tests/systemd/test_hosts.py",
        '"--no-block", "ratel-rater@3"',
    ),
    "systemctl stop ratel-rater@N": ("tests/systemd/test_hosts.py", '"stop", "ratel-rater@3"'),
    "ratel roll gateways": ("tests/systemd/test_units.py", '"ratel", "roll", "gateways"'),
    "ratel roll raters --ask http://10.0.0.1:8000 --ask http://10.0.0.2:8000": ("docs/deploy.md", "host3# "),
    "ratel up": ("tests/e2e/test_rolling.py", "SIGHUP"),
    "ratel up --gateways 2": ("tests/e2e/test_rolling.py", "--gateways"),
    "kill -HUP PID": ("tests/e2e/test_rolling.py", "SIGHUP"),
    "make test-systemd": ("Makefile", "test-systemd:"),
    "make wheelhouse COMPILED=1": ("Makefile", "COMPILED=1 adds a wheel"),
    "make wheelhouse FOR=3.13": ("Makefile", "SUITE=trixie FOR=3.13"),
    "RATEL_TEST_CLUSTER=1 python -m pytest -s tests/cluster/test_rolling_soak.py": (
        "tests/cluster/test_rolling_soak.py",
        "def test_",
    ),
}
"""Commands in the text that something else runs: a file, and what stands in it."""
_IN_TEXT: Final = re.compile(
    r"(?<!`)`((?:[A-Z_]+=\S+ )*"
    r"(?:ratel|systemctl|(?:deploy/)?install\.sh|journalctl|systemd-\w+|kill|make|sysctl|podman|python|curl|redis-cli)"
    r" [^`\n]+)`"
)


class Typed(NamedTuple):
    line: int
    where: str
    command: str
    printed: tuple[str, ...]


class File(NamedTuple):
    line: int
    where: str
    path: str
    text: str


def typed(block: Block) -> list[Typed]:
    """The commands of a `console` block. Raises ValueError where it does not begin with one."""
    found: list[Typed] = []
    for line in block.body.splitlines():
        if match := _PROMPT.fullmatch(line):
            where = SOURCES if match["sources"] else match["host"] or ONE
            found.append(Typed(block.line, where, match["command"], ()))
        elif not found:
            raise ValueError(f"line {block.line}: a console block begins with a prompt, not with {line!r}")
        else:
            found[-1] = found[-1]._replace(printed=(*found[-1].printed, line))
    return found


def steps() -> list[Typed | File]:
    """All that the page's reader does, in order, but for what is marked as not run."""
    found: list[Typed | File] = []
    for block in blocks(PAGE):
        if block.not_run is not None:
            continue
        if block.file is not None:
            place = _PLACE.fullmatch(block.file)
            if place is None:
                raise ValueError(f"line {block.line}: {block.file!r} is no path")
            found.append(File(block.line, place["host"] or ONE, place["path"], block.body))
        elif block.language == "console":
            found += typed(block)
        elif block.language in RUN:
            raise ValueError(f"line {block.line}: only console blocks say on which host they are typed")
    return found


def not_typed() -> list[str]:
    return [
        step.command
        for block in blocks(PAGE)
        if block.not_run is not None and block.language in RUN
        for step in typed(block)
    ]


def in_text() -> set[str]:
    """The commands in the page's text and tables: code that begins with a program's name and goes on."""
    outside = re.sub(r"^```.*?^```$", "", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    return set(_IN_TEXT.findall(outside))
