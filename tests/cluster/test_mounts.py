"""Credentials and certificates for NATS in a folder that Kubernetes mounts: replaced by a swapped symlink."""

import asyncio
import os
from pathlib import Path

import nkeys
import pytest

import kit
from certificates import Certificates
from mount import Mount
from signal_py import Engine
from wire import until

from .accounts import make_key, make_operator, public
from .test_tls import tls_url


def is_up(engine: kit.Engine) -> bool:
    return bool(engine.stats()["nats_state"] == "up")


def trusting(pair: nkeys.KeyPair) -> str:
    return f"authorization {{ users: [ {{ nkey: {public(pair)} }} ] }}"


@pytest.mark.parametrize("kind", ["nats_nkey", "nats_creds"])
def test_credentials_of_a_secret_are_rotated(kind: str, tmp_path: Path) -> None:
    """From its next start on, NATS trusts other credentials. In between the file is missing."""

    def make() -> tuple[str, bytes]:
        if kind == "nats_creds":
            config, creds = make_operator(tmp_path)
            return config, creds.read_bytes()
        pair, seed = make_key(nkeys.PREFIX_BYTE_USER)
        return trusting(pair), seed.encode()

    config, content = make()
    mount = Mount(tmp_path / "secret", node=content)
    settings = {"loops": 1, kind: mount / "node", "log_level": "debug"}
    with kit.nats(config=config) as server, kit.engine(nats=server.url, **settings) as engine:
        until(lambda: is_up(engine), "the node is connected")
        server.stop()
        server.config, content = make()
        mount.empty()
        server.start()
        until(lambda: b"the credentials can't be read" in engine.log(), "the missing file is logged")
        mount.swap(node=content)
        until(lambda: is_up(engine), "the node is connected again")
        flags = ["--nats", server.url, f"--{kind.replace('_', '-')}", str(mount / "node")]
        until(lambda: engine.node in kit.run("ctl", "nodes", *flags).stdout, "the control plane is connected again")
        warned = [line["event"] for line in engine.events() if line["level"] == "warning"]
        assert warned == ["NATS is away; local delivery continues"]


def test_certificates_of_a_secret_are_rotated(tmp_path: Path) -> None:
    """From its next start on, NATS has another authority, and requires a certificate from it."""

    def make(name: str) -> tuple[str, dict[str, bytes]]:
        folder = tmp_path / name
        folder.mkdir()
        made = Certificates(folder)
        cert, key = made.issue("node", "node.example")
        return made.server(more=", verify: true"), {
            "ca": made.ca.read_bytes(), "cert": cert.read_bytes(), "key": key.read_bytes()
        }  # fmt: skip

    config, files = make("old")
    mount = Mount(tmp_path / "secret", **files)
    settings = {f"nats_tls_{name}": mount / name for name in files}
    with kit.nats(config=config) as server, kit.engine(nats=tls_url(server), log_level="debug", **settings) as engine:
        until(lambda: is_up(engine), "the node is connected")
        server.stop()
        server.config, files = make("new")
        mount.empty()
        server.start()
        until(lambda: b"a file for TLS can't be read" in engine.log(), "the missing files are logged")
        mount.swap(**files)
        until(lambda: is_up(engine), "the node is connected again")


def test_a_program_that_changes_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair, seed = make_key(nkeys.PREFIX_BYTE_USER)
    mount = Mount(tmp_path / "secret", node=seed)
    monkeypatch.chdir(tmp_path)

    async def main(server: kit.Nats) -> None:
        engine = Engine(nats=server.url, nats_nkey="secret/node", loops=1)
        os.chdir("/")
        async with engine:
            assert engine.stats()["nats_state"] == "up"
            server.stop()
            other, seed = make_key(nkeys.PREFIX_BYTE_USER)
            server.config = trusting(other)
            mount.swap(node=seed)
            server.start()
            await asyncio.to_thread(until, lambda: engine.stats()["nats_state"] == "up", "the node is connected again")

    with kit.nats(config=trusting(pair)) as server:
        asyncio.run(main(server))
