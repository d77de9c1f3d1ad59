"""`ratel roll`, with a `systemctl` that notes what it is asked, and a balancer that says what it likes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from common.commands.roll_command import roll

SYSTEMCTL = """#!/bin/sh
echo "$*" >> {folder}/asked
case "$*" in
  list-units*) grep -E "$(echo "$6" | sed 's/[*]/.*/')" {folder}/active; exit 0;;
  is-active*) grep -qx "$3" {folder}/active;;
  *) ! grep -qx "$2" {folder}/broken;;
esac
"""
RATERS = [f"ratel-rater@{number}.service" for number in (1, 2)]
BALANCER = "ratel-balancer.service"
SOCKETS = [f"ratel-balancer-{name}.socket" for name in ("jsonrpc", "http", "router")]


class Manager:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.answers: list[tuple[int, object]] = []
        """Of /readyz, one after the other; the last one again and again."""
        script = folder / "systemctl"
        script.write_text(SYSTEMCTL.format(folder=folder))
        script.chmod(0o755)
        self.have([*RATERS, BALANCER, *SOCKETS])
        (folder / "broken").touch()
        answers = self.answers

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = answers.pop(0) if len(answers) > 1 else answers[0]
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def have(self, units: list[str]) -> None:
        (self.folder / "active").write_text("".join(f"{unit}\n" for unit in units))

    def roll(self, *words: str) -> Result:
        return CliRunner().invoke(roll, [*words, "--ask", f"http://127.0.0.1:{self.server.server_port}/"])

    @property
    def restarted(self) -> list[str]:
        asked = (self.folder / "asked").read_text().splitlines()
        return [line.split()[1] for line in asked if line.startswith("restart ")]


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    manager = Manager(tmp_path)
    manager.answers.append((200, {"raters": 2}))
    yield manager
    manager.server.shutdown()
    manager.server.server_close()


@pytest.mark.parametrize(
    ("what", "restarted"),
    [("raters", RATERS), ("balancer", [BALANCER]), ("all", [*RATERS, BALANCER, "ratel-gateway@1.service"])],
)
def test_what_is_active_is_restarted_in_order(manager: Manager, what: str, restarted: list[str]) -> None:
    manager.have([*RATERS, BALANCER, *SOCKETS, "ratel-gateway@1.service", "other.service"])
    done = manager.roll(what)
    assert done.exit_code == 0, done.output
    assert manager.restarted == restarted
    assert [line.split()[0] for line in done.output.splitlines()] == [*restarted, "done"]


def test_the_next_one_waits_for_the_raters_of_before(manager: Manager) -> None:
    full, short, ending = (200, {"raters": 2}), (200, {"raters": 1}), (503, {"raters": 0})
    manager.answers[:] = [full, short, ending, short, full]
    assert manager.roll("raters").exit_code == 0
    assert len(manager.answers) == 1
    assert manager.restarted == RATERS


@pytest.mark.parametrize(
    ("answers", "complaint", "restarted"),
    [
        ([(200, {"raters": 2}), (200, {"raters": 1})], "has 1 raters, 2 before", RATERS[:1]),
        ([(200, {"raters": 2}), (503, {})], "has no answer that it is ready, 2 before", RATERS[:1]),
        ([(503, {})], "does not answer that it is ready", []),
        ([(200, [])], "is no balancer", []),
    ],
)
def test_a_balancer_without_its_raters_ends_it(
    manager: Manager, answers: list[tuple[int, object]], complaint: str, restarted: list[str]
) -> None:
    manager.answers[:] = answers
    done = manager.roll("raters", "--within", "1")
    assert done.exit_code == 1
    assert complaint in done.output
    assert manager.restarted == restarted


def test_a_unit_that_does_not_start_ends_it(manager: Manager) -> None:
    (manager.folder / "broken").write_text(f"{RATERS[0]}\n")
    done = manager.roll("all")
    assert done.exit_code == 1
    assert f"journalctl -u {RATERS[0]}" in done.output
    assert manager.restarted == RATERS[:1]


def test_a_balancer_whose_sockets_are_its_own_is_not_restarted_unasked(manager: Manager) -> None:
    manager.have([BALANCER, *SOCKETS[1:]])
    done = manager.roll("balancer")
    assert done.exit_code == 1
    assert f"not active: {SOCKETS[0]};" in done.output
    assert not manager.restarted
    assert manager.roll("balancer", "--force").exit_code == 0
    manager.have([BALANCER, SOCKETS[2], "ratel-gateway@1.service"])
    assert manager.roll("balancer").exit_code == 0, "behind gateways it has the router's port only"
    assert manager.restarted == [BALANCER, BALANCER]


def test_nothing_to_restart_is_an_error(manager: Manager) -> None:
    manager.have([BALANCER])
    done = manager.roll("raters")
    assert done.exit_code == 1
    assert "no such unit is active on this host: ratel-rater@*.service" in done.output
