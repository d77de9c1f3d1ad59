"""The snippets of docs/api.md, "Clients for Python", print what stands there."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.e2e.cluster import ROOT, Cluster

TEXT = (ROOT / "docs" / "api.md").read_text()
SECTION = TEXT.partition("### Clients for Python\n")[2].partition("\n## ")[0]


def test_the_snippets_print_what_stands_there(sample_cluster: Cluster) -> None:
    programs = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", SECTION, re.DOTALL)
    assert len(programs) == 2
    host, port = sample_cluster.jsonrpc
    for program, printed in programs:
        assert program.count('"127.0.0.1:2001"') == 1
        done = subprocess.run(
            [sys.executable, "-c", program.replace("127.0.0.1:2001", f"{host}:{port}")],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.stdout == printed, done.stderr
