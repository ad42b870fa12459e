"""TLS with NATS: when it is used, with which files and server name. The core does the handshake."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from signal_py.base.errors import ConfigError, Fault, Faults
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
    """The paths of the files for TLS. They are opened for each connection, so that they may be replaced.

    ca    certificates of authorities; "": those of the system
    cert  the client certificate and its chain; "": none
    key   the private key of `cert`
    """

    ca: str = ""
    cert: str = ""
    key: str = ""

    @classmethod
    def of(cls, config: Config, servers: Sequence[Server]) -> Tls:
        """Returns the files of the settings. If TLS may be used, loads them once to find errors. Raises ConfigError."""
        from signal_core.engine import TlsError, tls_try

        found = cls(config.nats_tls_ca, config.nats_tls_cert, config.nats_tls_key)
        if not (found.ca or found.cert or any(server.tls for server in servers)):
            return found
        faults = Faults()
        for part in PARTS:
            if path := found.path(part):
                try:
                    check_certificates(path)
                except (OSError, ValueError) as error:
                    faults.found.append(_unusable(config, part, path, reason(error)))
        faults.raise_all()
        try:
            tls_try(found.ca, found.cert, found.key)
        except TlsError as error:
            if error.part == "library":
                raise ConfigError(
                    f"{config.named('nats')} requires TLS, but {error}: install OpenSSL "
                    "(Debian: apt-get install openssl)."
                ) from None
            raise ConfigError(_unusable(config, error.part, found.path(error.part), str(error))) from None
        return found

    def path(self, part: str) -> str:
        """Returns the path for one of PARTS; "" if it is not given."""
        return {"ca": self.ca, "cert": self.cert, "key": self.key}[part]

    def check(self) -> None:
        """Raises OSError or ValueError for a file that can't be read, or on which OpenSSL would block."""
        for part in PARTS:
            if path := self.path(part):
                check_certificates(path)

    def handshake(self, server: Server) -> tuple[str, bool, str, str, str]:
        """Returns the arguments of the core for a TLS connection. Raises the errors of `check`.

        They are the name in the server's certificate, whether it is an IP address, and the three paths.
        """
        self.check()
        name = server.tls_name or server.host
        return name, is_ip(name), self.ca, self.cert, self.key


def _unusable(config: Config, part: str, path: str, why: str) -> Fault:
    named = config.named(PARTS[part])
    return Fault(f"{named} {path} can't be used ({why}): name a file with {WANTED[part]}.", PARTS[part], named)


def wants_tls(required: bool, server: Server) -> bool:
    """Returns whether to use TLS: the URL requires it, or the server's INFO does (`required`)."""
    return server.tls or required
