"""How the control plane reaches NATS: TLS, credentials, and files that are replaced; nodes and operators alike."""

import json
import urllib.request
from pathlib import Path

import nkeys

import kit
from certificates import Certificates

from .accounts import make_key, make_operator, public
from .test_control import await_control
from .test_tls import certificates, tls_url

__all__ = ["certificates"]  # a fixture


def connections(monitor: int) -> list[dict[str, object]]:
    """The connections that a nats-server lists."""
    with urllib.request.urlopen(f"http://127.0.0.1:{monitor}/connz", timeout=kit.PATIENCE) as answer:
        found: list[dict[str, object]] = json.loads(answer.read())["connections"]
    return found


def test_tls_with_certificates_on_both_sides(certificates: Certificates) -> None:
    cert, key = certificates.issue("node", "node.example")
    files = {"nats_tls_ca": str(certificates.ca), "nats_tls_cert": str(cert), "nats_tls_key": str(key)}
    with (
        kit.nats(config=certificates.server(more=", verify: true")) as server,
        kit.engine(nats=tls_url(server), loops=1, **files) as node,
    ):
        await_control(server, node, **files)
        flags = kit.flags({"nats": tls_url(server), "nats_tls_ca": certificates.ca})
        error = kit.complaint(kit.run("ctl", "nodes", *flags))
        assert f"--nats tls://127.0.0.1:{server.port} can't be reached" in error


def test_tls_is_used_if_the_url_asks_for_it(certificates: Certificates) -> None:
    """Also with a server that allows clear text."""
    monitor = kit.free_port()
    config = certificates.server() + f'\nallow_non_tls: true\nhttp: "127.0.0.1:{monitor}"'
    ca = {"nats_tls_ca": str(certificates.ca)}
    with (
        kit.nats(config=config) as server,
        kit.engine(nats=tls_url(server), loops=1, **ca) as node,
    ):
        await_control(server, node)

        def are_two() -> bool:
            """Whether the node has two, both with TLS. Those of operators may not have ended yet."""
            ours = [one for one in connections(monitor) if str(one.get("name", "")).startswith("signal-engine ")]
            return len(ours) == 2 and all(one.get("tls_version") for one in ours)

        kit.until(are_two, "the node has two connections, and uses TLS on both")


def test_a_tls_url_and_a_server_without_tls() -> None:
    with kit.nats(config='authorization { user: "ann", password: "s3cr3t" }') as server:
        url = f"tls://ann:s3cr3t@127.0.0.1:{server.port}"
        error = kit.complaint(kit.run("ctl", "nodes", "--nats", url))
        assert "it offers no TLS, but its URL requires it" in error and "s3cr3t" not in error


def test_a_foreign_certificate(certificates: Certificates, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Certificates(tmp_path / "other")
    with kit.nats(config=certificates.server()) as server:
        flags = kit.flags({"nats": tls_url(server), "nats_tls_ca": other.ca})
        assert "its certificate is not valid" in kit.complaint(kit.run("ctl", "nodes", *flags))


def test_an_nkey(tmp_path: Path) -> None:
    pair, seed = make_key(nkeys.PREFIX_BYTE_USER)
    file = tmp_path / "node.nk"
    file.write_text(seed + "\n")
    config = f"authorization {{ users: [ {{ nkey: {public(pair)} }} ] }}"
    with kit.nats(config=config) as server, kit.engine(nats=server.url, loops=1, nats_nkey=file) as node:
        await_control(server, node, nats_nkey=str(file))


def test_credentials_are_read_again(tmp_path: Path) -> None:
    """When NATS trusts other credentials, a node reconnects with the file that replaced the old one."""
    config, creds = make_operator(tmp_path)
    with kit.nats(config=config) as server, kit.engine(nats=server.url, loops=1, nats_creds=creds) as node:
        await_control(server, node, nats_creds=str(creds))
        server.stop()
        server.config, replaced = make_operator(tmp_path)
        assert replaced == creds
        server.start()
        await_control(server, node, nats_creds=str(creds))


def test_a_broken_credentials_file_is_logged(tmp_path: Path) -> None:
    """The engine goes on. Once the file is repaired, the node answers again. The loss of NATS is logged once."""
    config, creds = make_operator(tmp_path)
    settings = {"loops": 1, "nats_creds": creds, "log_level": "debug"}
    with kit.nats(config=config) as server, kit.engine(nats=server.url, **settings) as node:
        await_control(server, node, nats_creds=str(creds))
        good = creds.read_text()
        server.stop()
        creds.write_text("nothing of use")
        server.start()
        kit.until(lambda: any("the credentials can't be read" in str(line) for line in node.events()), "it is logged")
        creds.write_text(good)
        await_control(server, node, nats_creds=str(creds))
        warned = [line["event"] for line in node.events() if line["level"] == "warning"]
        assert warned == ["NATS is away; local delivery continues"]


def test_a_control_connection_that_fails_is_logged_once() -> None:
    """The node goes on without it, and tries again."""
    settings = {"loops": 1, "log_level": "debug"}
    with kit.nats(config="max_connections: 1") as server, kit.engine(nats=server.url, **settings) as node:

        def levels() -> list[str]:
            return [line["level"] for line in node.events() if line["event"] == "the control plane is away"]

        kit.until(lambda: len(levels()) > 3, "it tries again")
        assert levels()[:4] == ["debug", "debug", "warning", "debug"]
        assert node.stats()["nats_state"] == "up"
