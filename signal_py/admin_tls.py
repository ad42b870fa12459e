"""TLS of the admin server, by Python's ssl: its connections are few."""

from __future__ import annotations

import ssl

from signal_py.base.errors import ConfigError, Fault
from signal_py.base.files import check_certificates, no_passphrase, reason
from signal_py.config.settings import Config

FILES = ("admin-tls-cert", "admin-tls-key", "admin-tls-client-ca")
WANTED = {
    "admin-tls-cert": "a certificate and its chain (PEM)",
    "admin-tls-key": "the private key of admin-tls-cert (PEM), without a passphrase",
    "admin-tls-client-ca": "certificates of authorities (PEM)",
}


def admin_tls_of(config: Config) -> ssl.SSLContext | None:
    """Loads the files for TLS of the admin server. Returns None if it has none. Raises ConfigError."""
    if not config.admin_tls_cert:
        return None
    for name in FILES:
        if path := _path(config, name):
            try:
                check_certificates(path)
            except (OSError, ValueError) as error:
                raise _unusable(config, name, reason(error)) from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    key = config.admin_tls_key
    try:
        context.load_cert_chain(config.admin_tls_cert, key or None, no_passphrase)
    except ssl.SSLError as error:
        raise _of_pair(config, error) from None
    if config.admin_tls_client_ca:
        try:
            context.load_verify_locations(config.admin_tls_client_ca)
        except ssl.SSLError:
            raise _unusable(config, "admin-tls-client-ca", "no certificate in it") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _of_pair(config: Config, error: ssl.SSLError) -> ConfigError:
    """Returns what is wrong with the certificate or its key."""
    name = "admin-tls-key" if config.admin_tls_key else "admin-tls-cert"
    if error.reason == "KEY_VALUES_MISMATCH":
        return _unusable(config, name, "its key is not that of the certificate")
    if name == "admin-tls-cert":
        return _unusable(config, name, "a certificate, or its key, is missing in it or damaged", "and its key")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(config.admin_tls_cert)
    except ssl.SSLError:
        return _unusable(config, "admin-tls-cert", "no certificate in it")
    return _unusable(config, name, "no key in it, or one with a passphrase")


def _path(config: Config, name: str) -> str:
    return str(getattr(config, name.replace("-", "_")))


def _unusable(config: Config, name: str, why: str, more: str = "") -> ConfigError:
    wanted = f"{WANTED[name]} {more}".rstrip()
    text = f"{config.named(name)} {_path(config, name)} can't be used ({why}): name a file with {wanted}."
    return ConfigError(Fault(text, name, config.named(name)))
