"""A cluster whose parts have keys, as processes: money moves through it, and each start is checked."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from common.client import JSONClient
from common.errors import DeadlineExceeded
from common.security.curve import Role
from common.zmq_client import ZmqClient
from tests.faults.nodes import PATIENCE_S, RATEL, TENANT, Gateway, Site, wait_until
from tests.integration.balancer_process import BalancerProcess
from tests.keyring import KeyRing


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    return KeyRing(tmp_path / "keys")


def test_money_moves_between_parts_with_keys_and_stops_for_those_that_are_revoked(
    ring: KeyRing, tmp_path: Path
) -> None:
    ring.new("r1", Role.RATER, allowed=True)
    ring.new("gw", Role.CLIENT, allowed=True)
    ring.new("program", Role.CLIENT)
    site = Site(
        tmp_path / "site",
        raters=1,
        balancer_options=ring.balancer_options,
        rater_options=ring.peer_options("r1"),
    )
    [balancer] = site.balancers
    gateway = Gateway("gateway", site.folder, [balancer.router], *ring.peer_options("gw"))
    debit = {"CstmId": TENANT, "Subject": "ann", "Amount": 1}
    with site:
        site.start({"ann": 100})
        gateway.start()
        try:
            wait_until(lambda: gateway.readiness() == 1, "the gateway is let in")
            with JSONClient(gateway.jsonrpc) as client:
                assert client.call("DebitBalance", debit) == 99
            files = {"key_file": ring.secret_file("program"), "server_key_file": ring.server_file}
            with ZmqClient(str(balancer.router), timeout_s=2, **files) as stranger:
                with pytest.raises(DeadlineExceeded):
                    stranger.call("DebitBalance", debit)
                ring.allow("program")
            with ZmqClient(str(balancer.router), timeout_s=PATIENCE_S, **files) as program:
                assert program.call("DebitBalance", debit) == 98
            ring.revoke("gw")
            wait_until(lambda: gateway.readiness() == 0, "the gateway is out")
            ring.revoke("r1")
            wait_until(lambda: balancer.readiness() == 0, "the rater is out")
            ring.allow("r1")  # by its connection, which it still has
            wait_until(lambda: balancer.readiness() == 1, "the rater is in again")
            with site.client() as client:
                assert client.call("DebitBalance", debit) == 97
        finally:
            gateway.kill()
    assert balancer.says("role=rater revoked")


def fails(*args: str) -> str:
    done = subprocess.run([*RATEL, *args], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode in (1, 2), done
    assert "Traceback" not in done.stderr
    return " ".join(done.stderr.split())


def test_a_router_that_others_can_reach_wants_keys_or_to_be_told_that_it_is_meant(ring: KeyRing) -> None:
    nowhere = ("--jsonrpc", "none", "--http", "none")
    for command in (("balancer", *nowhere), ("up",)):
        said = fails(*command, "--router", "0.0.0.0:0")
        assert "won't listen on 0.0.0.0:0 (--router): without --curve-key" in said
    with BalancerProcess("--router", "0.0.0.0:0", "--insecure-router") as balancer:
        balancer.wait_for_line("takes whoever reaches it, unencrypted (--insecure-router)")
    with BalancerProcess("--router", "0.0.0.0:0", *ring.balancer_options):
        pass


def test_wrong_keys_stop_the_start_with_one_clear_error(ring: KeyRing, tmp_path: Path) -> None:
    ring.new("r1", Role.RATER, allowed=True)
    key, server, rater = ring.secret_file("balancer"), ring.server_file, ring.secret_file("r1")
    folder = ring.authorized
    balancer, join = ("balancer", "--router", "127.0.0.1:0"), ("--curve-server-key", str(server))
    cases = [
        ((*balancer, "--curve-key", key), "--curve-key and --authorized-keys go together"),
        ((*balancer, "--authorized-keys", folder), "--curve-key and --authorized-keys go together"),
        ((*balancer, "--curve-key", rater, "--authorized-keys", folder), "that of a balancer is needed"),
        ((*balancer, "--curve-key", key, "--authorized-keys", tmp_path / "no"), "can't read the folder of"),
        (("rater", "--curve-key", rater), "--curve-key and --curve-server-key go together"),
        (("rater", *join), "--curve-key and --curve-server-key go together"),
        (("rater", "--curve-key", key, *join), "is the key of a balancer, and that of a rater is needed"),
        (("gateway", "--curve-key", rater, *join), "is the key of a rater, and that of a client is needed"),
        (("rater", "--curve-key", rater, "--curve-server-key", key), "holds a secret key: only the .pub"),
        (("rater", "--curve-key", rater, *join, *join), "2 times --curve-server-key for 1 times --balancer"),
    ]
    for args, says in cases:
        said = fails(*map(str, args))
        assert says in said, (args, said)
    (folder / "odd.pub").write_text("odd")
    said = fails(*balancer, "--curve-key", str(key), "--authorized-keys", str(folder))
    assert "--authorized-keys" in said
    assert "odd.pub is not a key file" in said
