"""Certificates for tests, as files."""

from __future__ import annotations

import datetime
from pathlib import Path

import trustme

DAY = datetime.timedelta(days=1)


class Certificates:
    """A certificate authority, and the files of its certificates."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        self.ca = folder / "ca.pem"
        self.authority.cert_pem.write_to_path(str(self.ca))

    def issue(self, name: str, *hosts: str, begins: float = -1, ends: float = 365) -> tuple[Path, Path]:
        """Certificate and key for hosts, as NAME.pem and NAME.key. `begins`, `ends`: in days from now."""
        now = datetime.datetime.now(datetime.timezone.utc)
        made = self.authority.issue_cert(*hosts, not_before=now + begins * DAY, not_after=now + ends * DAY)
        cert, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        cert.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
        key.write_bytes(made.private_key_pem.bytes())
        return cert, key

    def server(self, host: str = "127.0.0.1", more: str = "") -> str:
        """The configuration of a nats-server that requires TLS."""
        cert, key = self.issue("server", host)
        return f'tls {{ cert_file: "{cert}", key_file: "{key}", ca_file: "{self.ca}"{more} }}'
