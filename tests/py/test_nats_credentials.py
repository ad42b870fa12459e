"""How the engine proves to NATS which user it is: passwords, tokens, nkeys, creds files."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from scripted_core import make_seed
from signal_py.base.errors import ConfigError
from signal_py.config.nats_url import parse_url
from signal_py.config.settings import Config
from signal_py.nats.credentials import Credentials, connect_line


def proof(url: str, nonce: str = "", **access: str) -> dict[str, Any]:
    """The members of a CONNECT that authenticate the user."""
    line = connect_line(Credentials(**access).proof(nonce, parse_url(url)), "n1", "1", False)
    found: dict[str, Any] = json.loads(line.removeprefix(b"CONNECT "))
    return {name: found[name] for name in ("user", "pass", "auth_token", "jwt", "nkey", "sig") if name in found}


def test_passwords_and_tokens() -> None:
    assert proof("h") == {}
    assert proof("nats://u:p@h") == {"user": "u", "pass": "p"}
    assert proof("nats://t@h") == {"auth_token": "t"}
    assert proof("nats://u:p@h", token="t") == {"auth_token": "t"}
    assert proof("nats://t@h", user="u", password="p") == {"user": "u", "pass": "p"}


def test_the_nonce_is_signed(tmp_path: Path) -> None:
    seed, pair = make_seed()
    (tmp_path / "nk").write_text(seed + "\n", encoding="ascii")
    found = proof("h", "a nonce", seed_file=str(tmp_path / "nk"))
    assert found.pop("nkey") == pair.public_key.decode()
    assert pair.verify(b"a nonce", base64.b64decode(found.pop("sig"))) and found == {}
    (tmp_path / "creds").write_text(
        f"-----BEGIN NATS USER JWT-----\nej.wt\n------END NATS USER JWT------\n\n*** note ***\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n",
        encoding="ascii",
    )
    found = proof("h", "a nonce", creds_file=str(tmp_path / "creds"))
    assert pair.verify(b"a nonce", base64.b64decode(found.pop("sig"))) and found == {"jwt": "ej.wt"}


@pytest.mark.parametrize("text", ["", "nonsense", "SUAAAAA", "é", "-----BEGIN NATS USER JWT-----\nx"])
def test_files_without_a_seed(tmp_path: Path, text: str) -> None:
    file = tmp_path / "file"
    file.write_text(text, encoding="utf-8")
    for setting in ("nats_nkey", "nats_creds"):
        with pytest.raises(ConfigError) as refused:
            Credentials.of(Config(**{setting: str(file)}))  # type: ignore[arg-type]
        assert str(file) in str(refused.value)
