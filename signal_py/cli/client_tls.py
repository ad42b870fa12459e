"""TLS of the command line's clients: whom they trust, and what is wrong when a handshake fails, in plain words."""

from __future__ import annotations

import argparse
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from signal_py.base.errors import ConfigError
from signal_py.base.files import check_certificates, no_passphrase, reason

T = TypeVar("T")
ALPN = "http/1.1"  # a WebSocket begins with it; without it, a proxy might choose HTTP/2
CERT_FILE = "SSL_CERT_FILE"  # OpenSSL's own variable
# X509_V_ERR_… of OpenSSL's x509_vfy.h
NOT_YET, EXPIRED, SELF_SIGNED, HOST_MISMATCH, IP_MISMATCH = 9, 10, 18, 62, 64
UNKNOWN_ISSUER = (2, 19, 20, 21)
NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")
CERTIFICATE_REQUIRED = ("TLSV13_ALERT_CERTIFICATE_REQUIRED",)


@dataclass(frozen=True)
class ClientTls:
    """Whom a client trusts, and how it proves who it is.

    ca        file of the authorities that may have issued the server's certificate (PEM); "": those of the system, or
              of the variables SSL_CERT_FILE and SSL_CERT_DIR
    cert      file of the client's certificate and its chain (PEM); "": none
    key       file of its key (PEM, without a passphrase); "": it is in `cert`
    insecure  take any certificate
    """

    ca: str = ""
    cert: str = ""
    key: str = ""
    insecure: bool = False

    @classmethod
    def of(cls, options: argparse.Namespace) -> ClientTls:
        """Returns what the arguments of `add_tls` say. Raises ConfigError."""
        found = cls(options.ca, options.cert, options.key, options.insecure)
        if found.ca and found.insecure:
            raise ConfigError("--ca is given together with --insecure, which ignores it: give one of them.")
        if found.key and not found.cert:
            raise ConfigError("--key is given without --cert: give the certificate of that key, too.")
        if found.ca or found.cert:
            _ = found.context  # a file that can't be used is a mistake even if the URL is not one of TLS
        return found

    @cached_property
    def context(self) -> ssl.SSLContext:
        """The context for connections. Raises ConfigError."""
        if self.ca:
            made = _loaded("--ca", self.ca, lambda: ssl.create_default_context(cafile=self.ca))
        else:
            made = ssl.create_default_context()
        if self.cert:
            named, path = ("--key", self.key) if self.key else ("--cert", self.cert)
            _check("--cert", self.cert)
            _loaded(named, path, lambda: made.load_cert_chain(self.cert, self.key or None, no_passphrase))
        if self.insecure:
            made.check_hostname = False
            made.verify_mode = ssl.CERT_NONE
        made.set_alpn_protocols([ALPN])
        return made


SYSTEM = ClientTls()


def _check(named: str, path: str) -> None:
    """Raises ConfigError for a file that can't be read, or on which OpenSSL would block."""
    try:
        check_certificates(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{named} {path} can't be read ({reason(error)}): name a readable file.") from None


def _loaded(named: str, path: str, load: Callable[[], T]) -> T:
    """Loads what is in a file. Raises ConfigError."""
    _check(named, path)
    try:
        return load()
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"{named} {path} is not the key of the certificate: name the key that is.") from None
        what = "no certificate (PEM)" if named == "--ca" else "no certificate and key (PEM) without a passphrase"
        raise ConfigError(f"{named} {path} can't be used ({what} in it): name a file that has one.") from None


def tls_error_of(error: BaseException) -> ssl.SSLError | ConnectionResetError | None:
    """Returns the error of TLS that caused another error, if any. A reset is what asyncio makes of an early end."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, (ssl.SSLError, ConnectionResetError)):
        seen = seen.__cause__ or seen.__context__
    return seen


def explain(error: ssl.SSLError | ConnectionResetError, host: str, plain: str) -> str:
    """Returns what is wrong at the other end, and the fix: text that follows the URL.

    host   that of the URL
    plain  what URLs without TLS begin with, such as `ws://`
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return _distrust(error, host)
    if isinstance(error, (ConnectionResetError, ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        fixes = f"write {plain} if it has no TLS, or give --cert FILE if it asks for a client's certificate."
        return f"closes the connection during the TLS handshake: {fixes}"
    name = str(error.reason or "")
    if name in NO_TLS:
        return f"does not speak TLS: write {plain} instead, or give the port that does."
    if name in CERTIFICATE_REQUIRED:
        return "asks for a client's certificate: give one with --cert FILE and --key FILE."
    text = name.lower().replace("_", " ") or str(error)
    return f"does not agree on TLS ({text}): look into its log, or at its settings of TLS."


def _distrust(error: ssl.SSLCertVerificationError, host: str) -> str:
    code = error.verify_code
    if code in (HOST_MISMATCH, IP_MISMATCH):
        return f"has a certificate that is not for {host}: give the URL with a name that is in the certificate."
    if code == EXPIRED:
        return "has a certificate that has expired: renew it there, or correct the clock of this machine."
    if code == NOT_YET:
        return "has a certificate that is not valid yet: correct the clock of this machine, or of the one that made it."
    if code == SELF_SIGNED:
        return "has a self-signed certificate, which is not trusted: name its file with --ca FILE."
    if code in UNKNOWN_ISSUER:
        return f"has a certificate of an authority that is not trusted: name the authority's file with {_trust()}."
    return f"has a certificate that can't be trusted ({error.verify_message}): replace it there."


def _trust() -> str:
    path = os.environ.get(CERT_FILE, "")
    missing = path and not os.path.isfile(path)  # OpenSSL says nothing of it
    return f"--ca FILE ({CERT_FILE} names {path}, which is no file)" if missing else "--ca FILE"
