"""Several engines on one port: refused unless they share it, as workers of uvicorn and gunicorn do."""

import asyncio
import contextlib
import functools
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import kit
from peers import BarePeer
from signal_py import ConfigError, Engine
from wire import LIMIT

PAGE = Path(__file__).parents[2] / "docs" / "library.md"
WORKERS = 3


def refusal(**settings: object) -> str:
    async def main() -> None:
        async with Engine(loops=1, **settings):  # type: ignore[arg-type]
            pass

    with pytest.raises(ConfigError) as refused:
        asyncio.run(main())
    return str(refused.value)


def test_the_error_says_whether_this_process_uses_the_port() -> None:
    """In another engine or a plain server; and not in another program."""

    async def main() -> None:
        async with Engine(loops=2, close_timeout=0.2) as engine:
            where = f"127.0.0.1:{engine.listening[0][1]}"
            for settings in ({"listen": where}, {"admin": where}, {"listen": f"0.0.0.0:{where[10:]}"}):
                error = await asyncio.to_thread(refusal, **settings)
                assert "is in use by another engine or server of this process" in error
                assert "choose another port" in error

    asyncio.run(main())
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        assert "by another engine or server of this process" in refusal(listen=f"[::1]:{server.getsockname()[1]}")
    with kit.engine(loops=1) as other:
        error = refusal(listen=f"127.0.0.1:{other.port}")
        assert "is in use by another program" in error


def test_only_those_that_share_a_port_share_it() -> None:
    async def main() -> None:
        async with Engine(loops=1, reuse_port=True, close_timeout=0.2) as one:
            where = f"127.0.0.1:{one.listening[0][1]}"
            async with Engine(loops=1, reuse_port="on", listen=where, close_timeout=0.2) as two:
                assert one.listening == two.listening
                nodes = set()
                for _ in range(200):
                    peer = await asyncio.to_thread(BarePeer, one.listening[0][1])
                    nodes.add(peer.address.partition(".")[0])
                    await asyncio.to_thread(peer.close)
                    if len(nodes) == 2:
                        break
                assert nodes == {one.node, two.node}
                assert "by another engine or server of this process" in await asyncio.to_thread(refusal, listen=where)

    asyncio.run(main())


def test_a_port_that_another_program_does_not_share() -> None:
    code = "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1]); sys.stdin.read()"
    command = [*kit.python(), "-u", "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        error = refusal(listen=f"127.0.0.1:{int(other.stdout.readline())}", reuse_port=True)
        assert "does not share it" in error and "set reuse_port='on'" in error


def test_engines_of_two_processes() -> None:
    """Without NATS, they are two clusters: the log warns."""
    with (
        kit.engine(loops=1, reuse_port="on") as first,
        kit.engine(loops=1, reuse_port="on", listen=f"127.0.0.1:{first.port}") as second,
    ):
        assert second.port == first.port and second.node != first.node
        assert b"no common NATS server" in second.log()


# -- workers --


def program() -> str:
    """The sample program of docs/library.md."""
    found = re.search(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


def commands() -> dict[str, list[str]]:
    """The commands of docs/library.md, by server."""
    lines = re.findall(r"^    ((?:uvicorn|gunicorn) service:app .*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {line.split()[0]: line.split() for line in lines}


@contextlib.contextmanager
def served(server: str, folder: Path, listen: str, nats: str) -> Iterator[int]:
    """Runs the sample program under a server, and yields its HTTP port; the server must exit with status 0."""
    port = kit.free_port()
    name, *more = server.split()
    words = [*commands()[name][1:], *more]
    words = [word.replace("4", str(WORKERS)) if word == "4" else word.replace("8000", str(port)) for word in words]
    path = shutil.which(name, path=str(Path(sys.executable).parent))
    assert path, f"{name} is not installed: pip install -e '.[test]'"
    (folder / "service.py").write_text(program(), encoding="utf-8")
    process = kit.Process(server)
    shutil.copy(folder / "service.py", process.folder)
    process.spawn([path, *words], kit.clean_environment(LISTEN=listen, NATS=nats, PYTHONUNBUFFERED="1"))
    try:
        yield port
        assert process.end(signal.SIGTERM) == 0
    finally:
        if process.alive():
            process.end(signal.SIGKILL)


def ask(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/page", timeout=LIMIT) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


@pytest.mark.timeout(180)
@pytest.mark.skipif("tsan" in Path(sys.executable).parts, reason="the web servers' Python has no ThreadSanitizer")
@pytest.mark.parametrize("server", ["uvicorn", "gunicorn", "gunicorn --preload"])
def test_workers_of_a_service(server: str, tmp_path: Path) -> None:
    """Each worker is a node. Through one port, a client of one gets messages from the clients and programs of all. With
    --preload the engine is made before the fork."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # kept, without listening: workers may share it
    held.bind(("127.0.0.1", 0))
    shared = held.getsockname()[1]
    with held, kit.nats() as nats, contextlib.ExitStack() as stack:
        http = stack.enter_context(served(server, tmp_path, f"127.0.0.1:{shared}", nats.url))
        kit.until(lambda: ask(http), f"{server} answers", 60)
        peers: dict[str, BarePeer] = {}

        def meet() -> bool:
            with contextlib.suppress(OSError):
                peer = BarePeer(shared, "lobby")
                if peers.setdefault(peer.address.partition(".")[0], peer) is not peer:
                    peer.close()
            return len(peers) == WORKERS

        kit.until(meet, "every worker has a client", 60)
        first, *others = peers.values()
        for peer in others:
            kit.until(functools.partial(reaches, first, peer), "both workers use NATS")
            assert next_from(peer, first.address) == b"across"
        node = ask(http)
        assert node in peers
        for peer in peers.values():
            assert next_from(peer, node + ".") == b"somebody asks for /page"
            peer.vanish()


def reaches(sender: BarePeer, receiver: BarePeer) -> bool:
    return sender.ask(f"TO {receiver.address}", "across") == "ok"


def next_from(peer: BarePeer, sender: str) -> bytes | None:
    """The next payload from a sender whose address begins with `sender`."""
    while True:
        received = peer.read()
        if received.verb in ("FROM", "MSG") and received.words[-1].startswith(sender):
            return received.payload
