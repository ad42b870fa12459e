"""Unix sockets to listen on: their files, who is let in, and what is reported."""

import os
import socket
import stat
from pathlib import Path

import pytest

import kit
import wire

UPGRADED = b"HTTP/1.1 101"


def connect(name: str) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(kit.PATIENCE)
    client.connect(name)
    return client


def answer(name: str, request: bytes) -> tuple[socket.socket, bytes]:
    client = connect(name)
    client.sendall(request)
    return client, client.recv(4096)


def get(name: str, path: str) -> bytes:
    with connect(name) as client:
        client.sendall(f"GET {path} HTTP/1.0\r\nHost: a\r\n\r\n".encode())
        return client.makefile("rb").read()


def test_clients_and_operators_connect(tmp_path: Path) -> None:
    path, admin = tmp_path / "ws.sock", tmp_path / "admin.sock"
    abstract = f"@signal-test-{os.getpid()}"
    with kit.engine(
        listen=[f"unix:{path}", f"unix:{abstract}"], admin=f"unix:{admin}", listen_mode="0600", loops=2
    ) as engine:
        assert engine.ready["listening"] == [f"ws+unix:{path}:/", f"ws+unix:{abstract}:/"]
        assert engine.ready["admin"] == f"http+unix:{admin}:/"
        assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(admin.stat().st_mode) == 0o600
        assert get(str(path), "/healthz").endswith(b"ok\n")
        assert get(str(admin), "/readyz").endswith(b"ready\n")
        clients = [answer(name, wire.request()) for name in (str(path), "\0" + abstract[1:]) * 4]
        assert all(text.startswith(UPGRADED) for _, text in clients)
        for client, _ in clients:
            client.close()
    assert not path.exists() and not admin.exists()


def test_a_client_is_told_that_the_engine_stops(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with kit.engine(listen=f"unix:{path}") as engine:
        client, text = answer(str(path), wire.request())
        assert text.startswith(UPGRADED)
        engine.child.terminate()  # type: ignore[union-attr]
        rest = b""
        while more := client.recv(4096):
            rest += more
        assert b"\x88\x02\x03\xe9" in text + rest  # Close, 1001
        client.close()


def test_the_forwarded_address_counts(tmp_path: Path) -> None:
    """Who may connect is a trusted proxy. Without X-Forwarded-For there is no address, and so no limit."""
    path = tmp_path / "s"
    with kit.engine(listen=f"unix:{path}", max_connections_per_address=1):
        named = wire.request("/", "X-Forwarded-For: 203.0.113.1")
        found = [answer(str(path), request) for request in (named, named, wire.request(), wire.request())]
        assert [text[:12] for _, text in found] == [UPGRADED, b"HTTP/1.1 429", UPGRADED, UPGRADED]
        for client, _ in found:
            client.close()


def test_a_proxy_may_send_the_proxy_protocol(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with kit.engine(listen=f"unix:{path}", proxy_protocol="on", max_connections_per_address=1):
        header = b"PROXY TCP4 203.0.113.1 192.0.2.1 5000 80\r\n"
        found = [answer(str(path), request) for request in (header + wire.request(),) * 2 + (wire.request(),)]
        assert [text[:12] for _, text in found] == [UPGRADED, b"HTTP/1.1 429", b"HTTP/1.1 400"]
        for client, _ in found:
            client.close()


def test_the_file_of_a_process_that_was_killed_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with kit.engine(listen=f"unix:{path}") as engine:
        engine.kill()
    assert path.exists()
    with kit.engine(listen=f"unix:{path}"):
        assert get(str(path), "/healthz").endswith(b"ok\n")


def test_a_file_that_another_process_has_made_since_stays(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with kit.engine(listen=f"unix:{path}"), socket.socket(socket.AF_UNIX) as other:
        path.unlink()
        other.bind(str(path))
    assert path.exists()


def complaint(listen: str, **more: str) -> str:
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in more.items()]
    return kit.complaint(kit.run("serve", "--nats=off", f"--listen={listen}", *arguments))


def test_a_socket_in_use_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with kit.engine(listen=f"unix:{path}"):
        assert "is in use by another program" in complaint(f"unix:{path}")
        assert get(str(path), "/healthz").endswith(b"ok\n")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(f"\0signal-test-{os.getpid()}")
        assert "is in use by another program" in complaint(f"unix:@signal-test-{os.getpid()}")


def test_what_cannot_be_a_socket(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    assert "exists and is not a socket" in complaint(f"unix:{tmp_path}/file")
    assert (tmp_path / "file").read_text() == "kept"
    assert f"a directory that does not exist: create {tmp_path}/none" in complaint(f"unix:{tmp_path}/none/s")
    assert "below a file that is not a directory" in complaint(f"unix:{tmp_path}/file/s")
    assert "109 bytes of at most 107" in complaint("unix:/" + "x" * 108)
    assert "write unix:/PATH" in complaint("unix:relative")
    assert "is not a file mode" in complaint(f"unix:{tmp_path}/s", listen_mode="rw")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere: run the tests as another user")
def test_a_directory_that_may_not_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "is not allowed for this user" in complaint(f"unix:{tmp_path}/s")


def test_commands_connect(tmp_path: Path) -> None:
    """The URLs are those that the engine logs."""
    path, admin = tmp_path / "ws.sock", tmp_path / "admin.sock"
    with kit.engine(listen=[f"unix:{path}", f"unix:@signal-cli-{os.getpid()}"], admin=f"unix:{admin}") as engine:
        for url in engine.ready["listening"]:
            assert kit.run("pub", "--url", url, "lobby", "hello").returncode == 0
        shown = kit.run("top", "--admin", engine.ready["admin"], "--json", "--count", "1")
        assert shown.returncode == 0 and f'"{engine.node}"' in shown.stdout
        gone = kit.run("pub", "--url", f"ws+unix:{tmp_path}/gone:/", "lobby", "hello")
        assert gone.returncode == 2 and "gone:/ can't be reached" in gone.stderr
        drained = kit.run("drain", "--admin", f"unix:{admin}")
        assert drained.returncode == 0 and "is draining" in drained.stdout
        assert engine.wait() == 0


def test_a_check_leaves_sockets_alone(tmp_path: Path) -> None:
    """It leaves no file behind, and the file of an engine that runs stays: clients connect to it."""
    name = tmp_path / "s"
    flags = ("check", "--nats=off", f"--listen=unix:{name}")
    done = kit.run(*flags)
    assert done.returncode == 0 and list(tmp_path.iterdir()) == [], done.stdout
    with kit.engine(listen=f"unix:{name}", loops=1):
        before = name.lstat().st_ino
        done = kit.run(*flags)
        assert "is in use by another program" in done.stdout
        assert name.lstat().st_ino == before
        with connect(str(name)):
            pass
