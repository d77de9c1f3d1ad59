"""The dial plan for a real Kamailio: SIP in, authorized by Ratel, SIP out, seconds taken at the end."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.e2e.cluster import ROOT, Cluster

CONFIG = ROOT / "docs" / "examples" / "kamailio.cfg"
WITHIN_S = 30.0

pytestmark = pytest.mark.skipif(
    shutil.which("kamailio") is None or not list(Path("/usr/lib").glob("*/kamailio/modules/http_client.so")),
    reason="there is no Kamailio with its http_client (Debian: kamailio, kamailio-utils-modules)",
)


class Phone:
    """One side of SIP over UDP: just enough of it to make and take a call."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(WITHIN_S)
        self.port = self.socket.getsockname()[1]

    def close(self) -> None:
        self.socket.close()

    def send(self, text: str, port: int) -> None:
        self.socket.sendto(text.replace("\n", "\r\n").encode(), ("127.0.0.1", port))

    def receive(self, beginning: str) -> str:
        """The next message that begins so; others, such as 100 Trying, are passed over."""
        give_up_s = time.monotonic() + WITHIN_S
        while time.monotonic() < give_up_s:
            text = self.socket.recv(65_536).decode().replace("\r\n", "\n")
            if text.startswith(beginning):
                return text
        raise AssertionError(f"no {beginning}")


def header(message: str, name: str) -> list[str]:
    return [
        line.partition(": ")[2] for line in message.split("\n") if line.lower().startswith(name.lower() + ":")
    ]


def request(
    verb: str, phone: Phone, caller: str, dialled: str, call: str, more: str = "", tag: str = ""
) -> str:
    return (
        f"{verb} sip:{dialled}@127.0.0.1 SIP/2.0\n"
        f"Via: SIP/2.0/UDP 127.0.0.1:{phone.port};branch=z9hG4bK-{verb}-{call}\n"
        f"Max-Forwards: 70\nFrom: <sip:{caller}@127.0.0.1>;tag=a{call}\nTo: <sip:{dialled}@127.0.0.1>{tag}\n"
        f"Call-ID: {call}\nCSeq: {1 if verb != 'BYE' else 2} {verb}\n"
        f"Contact: <sip:{caller}@127.0.0.1:{phone.port}>\n{more}Content-Length: 0\n\n"
    )


def answer(message: str, phone: Phone, first_line: str) -> str:
    kept = [
        line
        for line in message.split("\n")
        if line.lower().startswith(("via:", "from:", "call-id:", "cseq:", "record-route:"))
    ]
    to = header(message, "To")[0]
    to += "" if "tag=" in to else ";tag=b1"
    lines = [first_line, *kept, f"To: {to}", f"Contact: <sip:gw@127.0.0.1:{phone.port}>", "Content-Length: 0"]
    return "\n".join(lines) + "\n\n"


@contextmanager
def kamailio(cluster: Cluster, gateway: Phone) -> Iterator[int]:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    settings = {
        "LISTEN": f"udp:127.0.0.1:{port}",
        "RATEL": f'"{cluster.http}"',
        "GATEWAY": f'"sip:127.0.0.1:{gateway.port}"',
    }
    words = ["kamailio", "-f", str(CONFIG), "-DD", "-E", "-m", "16", "-M", "4"]
    for name, value in settings.items():
        words += ["-A", f"{name}={value}"]
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen([*words, "-Y", folder], stderr=subprocess.PIPE, text=True)
        try:
            yield port
        finally:
            process.terminate()
            _, log = process.communicate(timeout=30)
            print(log[-4000:])


def ring(caller: Phone, port: int, message: str, beginning: str) -> str:
    """Send until there is an answer, as SIP over UDP does: the server may still be starting."""
    caller.socket.settimeout(1.0)
    for _ in range(30):
        caller.send(message, port)
        try:
            return caller.receive(beginning)
        except TimeoutError:
            continue
    raise AssertionError(f"no {beginning}")


def test_a_call_is_authorized_and_its_seconds_are_taken_at_its_end(sample_cluster: Cluster) -> None:
    with (
        closing(Phone()) as caller,
        closing(Phone()) as gateway,
        kamailio(sample_cluster, gateway) as port,
        sample_cluster.client() as client,
    ):
        about = {"CstmId": "vdf", "Subject": "anna", "DestinationPrefix": "0722000001"}
        before = client.call("DebitSeconds", about | {"Amount": 0})
        invite = request("INVITE", caller, "anna", "0722000001", "call-1")
        ring(caller, port, invite, "SIP/2.0 100")
        forwarded = gateway.receive("INVITE")
        assert header(forwarded, "X-Granted-Seconds") == ["3600"]
        gateway.send(answer(forwarded, gateway, "SIP/2.0 200 OK"), port)
        caller.socket.settimeout(WITHIN_S)
        accepted = caller.receive("SIP/2.0 200")
        route = "".join(f"Route: {each}\n" for each in header(accepted, "Record-Route"))
        tag = ";tag=b1"
        ack = request("ACK", caller, "anna", "0722000001", "call-1", route, tag)
        caller.send(ack.replace("sip:0722000001@127.0.0.1 ", f"sip:gw@127.0.0.1:{gateway.port} "), port)
        gateway.receive("ACK")
        time.sleep(1.5)  # they talk: Kamailio counts whole seconds
        bye = request("BYE", caller, "anna", "0722000001", "call-1", route, tag)
        caller.send(bye.replace("sip:0722000001@127.0.0.1 ", f"sip:gw@127.0.0.1:{gateway.port} "), port)
        gateway.send(answer(gateway.receive("BYE"), gateway, "SIP/2.0 200 OK"), port)
        caller.receive("SIP/2.0 200")
        give_up_s = time.monotonic() + WITHIN_S
        while time.monotonic() < give_up_s:
            after = client.call("DebitSeconds", about | {"Amount": 0})
            if after != before:
                break
            time.sleep(0.1)
        assert before - after >= 1
        assert before - after == int(before - after)


def test_who_may_not_talk_is_told_so(sample_cluster: Cluster) -> None:
    with sample_cluster.client() as client:
        about = {"CstmId": "vdf", "Subject": "anna", "DestinationPrefix": "0044"}
        credit = client.call("DebitBalance", about | {"Amount": 0})
        client.call("DebitBalance", about | {"Amount": credit})
        try:
            with (
                closing(Phone()) as caller,
                closing(Phone()) as gateway,
                kamailio(sample_cluster, gateway) as port,
            ):
                poor = request("INVITE", caller, "anna", "0044201234567", "call-2")
                ring(caller, port, poor, "SIP/2.0 402")
        finally:
            client.call("DebitBalance", about | {"Amount": -credit})
