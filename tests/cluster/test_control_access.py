"""How the control plane reaches NATS: TLS, credentials, and files that are replaced; nodes and operators alike."""

import json
import urllib.request
from pathlib import Path

import nkeys

import kit

from .accounts import make_key, make_operator, public
from .test_control import await_control
from .test_tls import Certificates, certificates, tls_url

__all__ = ["certificates"]  # a fixture


def connections(monitor: int) -> list[dict[str, object]]:
    """What nats-server knows of each."""
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
        said = kit.complaint(kit.run("ctl", "nodes", *flags))
        assert f"--nats tls://127.0.0.1:{server.port} can't be reached" in said


def test_tls_is_spoken_where_the_url_asks_for_it(certificates: Certificates) -> None:
    """Also with a server that would take clear text; and else not a word."""
    monitor = kit.free_port()
    config = certificates.server() + f'\nallow_non_tls: true\nhttp: "127.0.0.1:{monitor}"'
    ca = {"nats_tls_ca": str(certificates.ca)}
    with (
        kit.nats(config=config) as server,
        kit.engine(nats=tls_url(server), loops=1, **ca) as node,
    ):
        await_control(server, node)

        def are_two() -> bool:
            """The node's; the operators' that awaited it may still be on their way out."""
            ours = [one for one in connections(monitor) if str(one.get("name", "")).startswith("signal-engine ")]
            return len(ours) == 2 and all(one.get("tls_version") for one in ours)

        kit.until(are_two, "the node has two connections, and speaks TLS on both")


def test_no_tls_no_word() -> None:
    with kit.nats(config='authorization { user: "ann", password: "s3cr3t" }') as server:
        url = f"tls://ann:s3cr3t@127.0.0.1:{server.port}"
        said = kit.complaint(kit.run("ctl", "nodes", "--nats", url))
        assert "it offers no TLS, but its URL requires it" in said and "s3cr3t" not in said


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
    """A node whose NATS begins to trust others comes back with the file that replaced the old one."""
    config, creds = make_operator(tmp_path)
    with kit.nats(config=config) as server, kit.engine(nats=server.url, loops=1, nats_creds=creds) as node:
        await_control(server, node, nats_creds=str(creds))
        server.stop()
        server.config, replaced = make_operator(tmp_path)
        assert replaced == creds
        server.start()
        await_control(server, node, nats_creds=str(creds))


def test_a_file_that_was_spoilt_is_told(tmp_path: Path) -> None:
    """In the log, while the engine goes on; once it is mended the node answers again. That NATS went is told once."""
    config, creds = make_operator(tmp_path)
    settings = {"loops": 1, "nats_creds": creds, "log_level": "debug"}
    with kit.nats(config=config) as server, kit.engine(nats=server.url, **settings) as node:
        await_control(server, node, nats_creds=str(creds))
        good = creds.read_text()
        server.stop()
        creds.write_text("nothing of use")
        server.start()
        kit.until(lambda: any("the credentials can't be read" in str(line) for line in node.events()), "it is told")
        creds.write_text(good)
        await_control(server, node, nats_creds=str(creds))
        warned = [line["event"] for line in node.events() if line["level"] == "warning"]
        assert warned == ["NATS is away; local delivery continues"]


def test_a_connection_that_can_not_be_had_is_told_once() -> None:
    """The node goes on without, and tries again."""
    settings = {"loops": 1, "log_level": "debug"}
    with kit.nats(config="max_connections: 1") as server, kit.engine(nats=server.url, **settings) as node:

        def told() -> list[str]:
            return [line["level"] for line in node.events() if line["event"] == "the control plane is away"]

        kit.until(lambda: len(told()) > 3, "it tries again")
        assert told()[:4] == ["debug", "debug", "warning", "debug"]
        assert node.stats()["nats_state"] == "up"
