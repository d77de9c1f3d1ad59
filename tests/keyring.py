"""Keys for tests: made, allowed and revoked as `ratel keys` does it, without a process for each."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from common.commands.keys_command import keys
from common.dealer import DealerKeys
from common.security.curve import AuthorizedKeys, Role, SecretKey, read_secret


class KeyRing:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authorized = folder / "authorized"
        self.server = self.new("balancer", Role.BALANCER)
        self.authorized.mkdir()

    def run(self, *args: str) -> str:
        done = CliRunner().invoke(keys, [*args, "--dir", str(self.folder)])
        assert done.exit_code == 0, done.output
        return done.output

    def new(self, name: str, role: Role, *, allowed: bool = False) -> SecretKey:
        self.run("new", name, "--role", role.value)
        if allowed:
            self.allow(name)
        return read_secret(self.secret_file(name), role)

    def allow(self, name: str) -> None:
        self.run("allow", name)

    def revoke(self, name: str) -> None:
        self.run("revoke", name)

    def secret_file(self, name: str) -> Path:
        return self.folder / f"{name}.key"

    def dealer_keys(self, name: str, role: Role, *, allowed: bool = True) -> DealerKeys:
        return DealerKeys(self.new(name, role, allowed=allowed), self.server.public)

    @property
    def keys(self) -> AuthorizedKeys:
        return AuthorizedKeys(self.authorized)

    @property
    def server_file(self) -> Path:
        return self.folder / "balancer.pub"

    @property
    def balancer_options(self) -> tuple[str, ...]:
        return (
            "--curve-key",
            str(self.secret_file("balancer")),
            "--authorized-keys",
            str(self.authorized),
        )

    def peer_options(self, name: str) -> tuple[str, ...]:
        """Of a rater or a gateway."""
        return "--curve-key", str(self.secret_file(name)), "--curve-server-key", str(self.server_file)
