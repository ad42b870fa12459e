"""TLS with NATS: when it is spoken, with which files, and to whom. The handshake is the core's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from signal_py.base.errors import ConfigError
from signal_py.base.files import check_certificates, reason
from signal_py.base.hostport import is_ip
from signal_py.config.nats_url import Server
from signal_py.config.settings import Config

PARTS = {"ca": "nats-tls-ca", "cert": "nats-tls-cert", "key": "nats-tls-key"}
WANTED = {
    "ca": "certificates of authorities (PEM)",
    "cert": "a certificate and its chain (PEM)",
    "key": "the private key of nats-tls-cert (PEM), without a passphrase",
}


@dataclass(frozen=True)
class Tls:
    """The files that TLS uses; "" for the system's authorities, and for no certificate of our own.

    They are opened at each connection, so that they may be replaced.
    """

    ca: str = ""
    cert: str = ""
    key: str = ""

    @classmethod
    def of(cls, config: Config, servers: Sequence[Server]) -> Tls:
        """Those of the settings; tried where TLS is wanted, so that what is bad is told at once. Raises ConfigError."""
        from signal_core.engine import TlsError, tls_try

        found = cls(config.nats_tls_ca, config.nats_tls_cert, config.nats_tls_key)
        if not (found.ca or found.cert or any(server.tls for server in servers)):
            return found
        for part in PARTS:
            if path := found.path(part):
                try:
                    check_certificates(path)
                except (OSError, ValueError) as error:
                    raise _unusable(config, part, path, reason(error)) from None
        try:
            tls_try(found.ca, found.cert, found.key)
        except TlsError as error:
            if error.part == "library":
                raise ConfigError(
                    f"{config.named('nats')} requires TLS, but {error}: install OpenSSL "
                    "(Debian: apt-get install openssl)."
                ) from None
            raise _unusable(config, error.part, found.path(error.part), str(error)) from None
        return found

    def path(self, part: str) -> str:
        """Of one of PARTS."""
        return {"ca": self.ca, "cert": self.cert, "key": self.key}[part]

    def check(self) -> None:
        """Raises OSError or ValueError where a file can't be read, or OpenSSL would wait for it."""
        for part in PARTS:
            if path := self.path(part):
                check_certificates(path)

    def handshake(self, server: Server) -> tuple[str, bool, str, str, str]:
        """What the core needs: the name that the server's certificate is for, whether that is an address, files.

        Raises what `check` does.
        """
        self.check()
        name = server.tls_name or server.host
        return name, is_ip(name), self.ca, self.cert, self.key


def _unusable(config: Config, part: str, path: str, why: str) -> ConfigError:
    return ConfigError(f"{config.named(PARTS[part])} {path} can't be used ({why}): name a file with {WANTED[part]}.")


def wants_tls(required: bool, server: Server) -> bool:
    """Whether TLS is spoken with a server that greeted so: our URL asks for it, or the server does."""
    return server.tls or required
