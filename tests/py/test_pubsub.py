"""`pub`, `sub` and `send`: output, messages and exit statuses."""

import asyncio
import base64
import json
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as websockets_serve

import kit
from kit import complaint
from signal_py import ConfigError
from signal_py.cli.output import plain_line
from signal_py.cli.pubsub import deliver, payloads
from signal_py.cli.ws_client import SUBPROTOCOL, Access, Received


@pytest.fixture(scope="module")
def engine() -> Iterator[kit.Engine]:
    with kit.engine(loops=2) as running:
        yield running


class Sub:
    """A `signal-engine sub` that has joined its rooms."""

    def __init__(self, engine: kit.Engine, *words: str) -> None:
        command = [*kit.python(), "-m", "signal_py", "sub", "--url", engine.url, *words]
        self.child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=kit.clean_environment(), cwd="/"
        )
        assert self.child.stdout is not None and self.child.stderr is not None
        self.out, self.err = self.child.stdout, self.child.stderr
        self.joined = self.err.readline().decode()

    def line(self) -> tuple[str, str]:
        """Room and payload of the next printed message; asserts that an address is between."""
        room, sender, payload = self.out.readline().decode().split(" ", 2)
        assert re.fullmatch(r"[a-z0-9]+\.[a-z0-9]+", sender), sender
        return room, payload

    def __enter__(self) -> "Sub":
        return self

    def __exit__(self, *_: object) -> None:
        self.child.kill()
        self.child.communicate()


def test_sub_prints_published_messages(engine: kit.Engine) -> None:
    with Sub(engine, "lobby", "b=c") as sub:
        assert "joined lobby, b=c" in sub.joined
        assert kit.run("pub", "--url", engine.url, "lobby", "héllo").returncode == 0
        assert sub.line() == ("lobby", "héllo\n")
        assert kit.run("pub", "lobby", "", SIGNAL_ENGINE_URL=engine.url).returncode == 0
        assert sub.line() == ("lobby", "\n")
        assert kit.run("pub", "--url", engine.url, "b=c", text="one\ntwo\r\n\nlast").returncode == 0
        assert [sub.line() for _ in range(4)] == [("b=c", text) for text in ("one\n", "two\n", "\n", "last\n")]


def test_raw_prints_only_payloads(engine: kit.Engine) -> None:
    with Sub(engine, "--raw", "lobby") as sub:
        assert shell(engine, r"printf 'a\377\033[2J' | $E pub lobby -").returncode == 0
        assert sub.out.readline() == b"a\xff\x1b[2J\n"
    assert "--raw" in complaint(kit.run("sub", "--raw", "--json", "lobby"))


def test_control_characters_are_escaped_on_a_terminal() -> None:
    received = Received("MSG", ("lobby", "k.1"), {}, "a\x1b[2J\nb\u202e é")
    assert plain_line(received, raw=False, terminal=True) == "lobby k.1 a\\x1b[2J\\nb\\u202e é\n".encode()
    assert plain_line(received, raw=True, terminal=True) == "a\\x1b[2J\\nb\\u202e é\n".encode()
    assert plain_line(received, raw=False, terminal=False) == "lobby k.1 a\x1b[2J\nb\u202e é\n".encode()
    received = Received("FROM", ("-",), {}, b"\xff")
    assert plain_line(received, raw=False, terminal=True) == b"@me - \\xff\n"
    assert plain_line(received, raw=False, terminal=False) == b"@me - \xff\n"


def test_sub_prints_presence(engine: kit.Engine) -> None:
    with Sub(engine, "hall") as quiet, Sub(engine, "--presence", "hall") as sub:
        first, me = (one.joined.removeprefix("signal-engine: ").split(" ")[0] for one in (quiet, sub))
        there = {sub.out.readline().decode(), sub.out.readline().decode()}
        with Sub(engine, "--presence", "--json", "hall") as third:
            late = third.joined.removeprefix("signal-engine: ").split(" ")[0]
            events = [json.loads(third.out.readline()) for _ in range(4)]
            peers = {event.pop("peer"): event for event in events if event["event"] == "member"}
            assert peers == {peer: {"room": "hall", "event": "member"} for peer in (first, me, late)}
        lines = [sub.out.readline().decode() for _ in range(2)]
        events = there | set(lines)
        members = {f"member hall {me}\n", f"member hall {first}\n"}
        assert events == members | {f"join hall {late}\n", f"leave hall {late}\n"}
        assert kit.run("pub", "--url", engine.url, "hall", "still").returncode == 0
        assert quiet.line() == ("hall", "still\n"), "presence is printed only with --presence"


def test_sub_as_json(engine: kit.Engine) -> None:
    from websockets.sync.client import connect

    with Sub(engine, "--json", "lobby") as sub, connect(engine.url) as peer:
        address = str(peer.recv()).split("\n")[0].removeprefix("HELLO ")
        peer.send("PUB lobby ref=r1\na\nb")
        peer.send(b"PUB lobby\n\x00\xff")
        assert json.loads(sub.out.readline()) == {
            "room": "lobby",
            "peer": address,
            "ref": "r1",
            "text": "a\nb",
        }
        last = json.loads(sub.out.readline())
        assert base64.b64decode(last.pop("base64")) == b"\x00\xff"
        assert last == {"room": "lobby", "peer": address}


def test_sub_once_ends_with_the_engine() -> None:
    with kit.engine() as engine, Sub(engine, "--once", "lobby") as sub:
        assert engine.stop() == 0
        assert sub.child.wait(kit.PATIENCE) == 1
        assert "1001" in sub.err.read().decode()


def test_sub_ends_quietly_by_a_signal(engine: kit.Engine) -> None:
    with Sub(engine, "lobby") as sub:
        sub.child.send_signal(signal.SIGINT)
        assert sub.child.wait(kit.PATIENCE) == 130
        assert sub.err.read() == b""


def test_sub_ends_quietly_if_nobody_reads(engine: kit.Engine) -> None:
    with Sub(engine, "lobby") as sub:
        sub.out.close()
        assert kit.run("pub", "--url", engine.url, "lobby", "x").returncode == 0
        assert sub.child.wait(kit.PATIENCE) == 0
        assert sub.err.read() == b""
        sub.child.stdout = None


def test_send(engine: kit.Engine) -> None:
    from websockets.sync.client import connect

    with connect(engine.url) as peer:
        address = str(peer.recv()).split("\n")[0].removeprefix("HELLO ")
        assert kit.run("send", "--url", engine.url, address, "hi").returncode == 0
        head, _, payload = str(peer.recv()).partition("\n")
        assert head.startswith("FROM ") and payload == "hi"


def test_errors_of_the_engine(engine: kit.Engine) -> None:
    for words, code in (
        (("send", f"{engine.node}.0000000000000", "x"), "no-such-peer"),
        (("send", "nonsense", "x"), "bad-request"),
        (("pub", "a*", "x"), "bad-request"),
        (("pub", "room", "x" * 70000), "too-large"),
        (("sub", "$x"), "bad-request"),
    ):
        assert code in complaint(kit.run(*words, "--url", engine.url), status=1)
    assert "'a*' is not a room: write" in kit.run("pub", "--url", engine.url, "a*", "x").stderr
    assert "'$x' is not a room: write" in kit.run("sub", "--url", engine.url, "$x").stderr
    assert "'nonsense' is not a peer: write" in kit.run("send", "--url", engine.url, "nonsense", "x").stderr
    done = kit.run("pub", "--json", "--url", engine.url, "a*", "x")
    assert (done.returncode, json.loads(done.stdout)) == (1, {"code": "bad-request"})


def test_sub_prints_messages_to_itself(engine: kit.Engine) -> None:
    with Sub(engine, "--json", "lobby") as sub:
        address = sub.joined.split()[1]
        assert kit.run("send", "--url", engine.url, address, "hi").returncode == 0
        line = json.loads(sub.out.readline())
        assert line.pop("text") == "hi" and set(line) == {"peer", "ref"}


def test_the_session_of_the_readme(engine: kit.Engine) -> None:
    """Each command, in order, does what the text says."""
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^\$ (.*\.venv/bin/signal-engine .*)$", readme, re.MULTILINE)
    assert commands.pop(0) == ".venv/bin/signal-engine sub lobby"
    program = f"{shlex.join(kit.python())} -m signal_py"
    with Sub(engine, "lobby") as sub:
        for command in commands:
            to_it = re.sub(r"send \S+", f"send {sub.joined.split()[1]}", command)
            done = subprocess.run(
                to_it.replace(".venv/bin/signal-engine", program),
                shell=True,
                env=kit.clean_environment(SIGNAL_ENGINE_URL=engine.url),
                cwd="/",
                capture_output=True,
                timeout=kit.PATIENCE,
                check=False,
            )
            assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        received = [sub.line() for _ in range(4)]
        assert received == [("lobby", "hello, all\n"), ("@me", "hello, you\n"), ("lobby", "one\n"), ("lobby", "two\n")]


@pytest.mark.parametrize(
    "url",
    [
        *("http://x/", "nonsense", "ws://", "ws://h:0/", "ws://nohost.invalid/", "ws://h/#part", "ws://user@h/"),
        *("ws://[::1/", "ws://a..b/", f"ws://{'x' * 64}.example/"),
    ],
)
def test_bad_urls(url: str) -> None:
    assert "--url" in complaint(kit.run("pub", "--url", url, "room", "x"))


def test_nothing_listens() -> None:
    error = complaint(kit.run("pub", "--url", f"ws://127.0.0.1:{kit.free_port()}/", "room", "x"))
    assert "nothing listens there" in error and "signal-engine serve" in error


def test_a_server_that_is_not_an_engine(engine: kit.Engine) -> None:
    url = engine.admin_url.replace("http", "ws")
    error = complaint(kit.run("pub", "--url", url, "room", "x"))
    assert "404" in error and "listening=" in error


def test_words_with_spaces(engine: kit.Engine) -> None:
    for words in (["pub", "a b", "x"], ["sub", "a\nb"], ["send", "", "x"], ["sub", "a\udcff"], ["send", "\t", "x"]):
        complaint(kit.run(*words, "--url", engine.url))


# -- whole payloads --


def test_whole_payloads(engine: kit.Engine, tmp_path: Path) -> None:
    """From a file or standard input, with all lines and the last newline, as text and binary."""
    file = tmp_path / "payload"
    address = "$(cat address)"
    with Sub(engine, "--json", "lobby") as sub:
        (tmp_path / "address").write_text(sub.joined.split()[1])
        lines, binary = b"one\ntwo\r\n\n", b"\x00\xff\n"
        for data, words in (
            (lines, "pub lobby --file payload"),
            (binary, "pub lobby - < payload"),
            (b"", "pub --file - lobby < payload"),
            ("é".encode(), f"send {address} --file payload"),
            (lines, f"send --binary {address} - < payload"),
            (b"", "pub --binary lobby --file payload"),
        ):
            file.write_bytes(data)
            done = shell(engine, f"cd {tmp_path} && $E {words}")
            assert (done.returncode, done.stderr) == (0, ""), words
            received = json.loads(sub.out.readline())
            as_text = "--binary" not in words and b"\xff" not in data
            assert ("text" in received) == as_text, words
            assert (received["text"].encode() if as_text else base64.b64decode(received["base64"])) == data, words


def test_bad_whole_payloads(engine: kit.Engine, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(b"x" * 70_000)
    error = complaint(kit.run("pub", "--url", engine.url, "lobby", "--file", str(big)), status=1)
    assert "too-large: The payload is larger than the engine's limit of 65536 bytes" in error
    error = complaint(kit.run("pub", "--url", engine.url, "lobby", "--file", str(tmp_path / "none")))
    assert f"--file {tmp_path / 'none'} can't be read: No such file" in error
    assert "give one of them" in complaint(kit.run("pub", "--url", engine.url, "lobby", "x", "--file", str(big)))


# -- standard input and output --


def shell(engine: kit.Engine, line: str) -> "subprocess.CompletedProcess[str]":
    """A line of shell in which `$E` is the program."""
    return subprocess.run(
        line.replace("$E", f"{shlex.join(kit.python())} -m signal_py"),
        shell=True,
        env=kit.clean_environment(SIGNAL_ENGINE_URL=engine.url),
        cwd="/",
        capture_output=True,
        text=True,
        timeout=kit.PATIENCE,
        check=False,
    )


def test_bytes_that_are_not_text(engine: kit.Engine) -> None:
    """They arrive unchanged, as binary, from an argument and from standard input."""
    with Sub(engine, "--json", "lobby") as sub:
        assert shell(engine, r"$E pub lobby $(printf '\377a')").returncode == 0
        assert shell(engine, r"printf '\376\nb' | $E pub lobby").returncode == 0
        received = [json.loads(sub.out.readline()) for _ in range(3)]
        assert [base64.b64decode(one["base64"]) for one in received[:2]] == [b"\xffa", b"\xfe"]
        assert received[2]["text"] == "b"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(engine: kit.Engine, closed: str) -> None:
    """They are as /dev/null: no socket gets their descriptor."""
    done = shell(engine, f"$E pub lobby x --json {closed}; $E pub lobby {closed}; $E version {closed}")
    assert done.returncode == 0 and done.stderr == ""
    done = shell(engine, f"$E send nobody.0 x {closed}")
    assert done.returncode == 1 and done.stdout == ""
    message = "signal-engine: no-such-peer: No connection has this address, or its node is gone.\n"
    assert done.stderr == ("" if "2>" in closed else message)


def test_an_error_that_nobody_reads(engine: kit.Engine) -> None:
    """The exit status is 1."""
    ours, theirs = os.pipe()
    os.close(ours)
    try:
        command = [*kit.python(), "-m", "signal_py", "pub", "--url", engine.url, "a*", "x"]
        assert subprocess.run(command, env=kit.clean_environment(), stderr=theirs, cwd="/", check=False).returncode == 1
    finally:
        os.close(theirs)


@pytest.mark.parametrize("payload", ["", "{}", "[]", '{"max_message": "x"}', "[" * 100_000])
def test_a_malformed_hello(payload: str) -> None:
    async def serve(connection: ServerConnection) -> None:
        await connection.send(f"HELLO n.1\n{payload}")
        await connection.wait_closed()

    async def talk() -> int:
        async with websockets_serve(serve, "127.0.0.1", 0, subprotocols=[SUBPROTOCOL]) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            return await deliver(f"ws://127.0.0.1:{port}/", Access(), "PUB lobby", payloads("x", None), False)

    with pytest.raises(ConfigError, match="doesn't speak"):
        asyncio.run(talk())


def test_a_full_disk(engine: kit.Engine) -> None:
    for words in ("version", "pub lobby x --json"):
        assert "No space" in complaint(shell(engine, f"$E {words} > /dev/full"), status=1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_wait_for_standard_input(engine: kit.Engine, number: int) -> None:
    """Though the read can't be interrupted."""
    command = [*kit.python(), "-m", "signal_py", "pub", "--json", "--url", engine.url, "lobby"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdin is not None and child.stdout is not None and child.stderr is not None
        child.stdin.write(b"one\n")
        child.stdin.flush()
        assert child.stdout.readline() == b'{"code": "ok"}\n'
        child.send_signal(number)
        assert child.wait(kit.PATIENCE) == (130 if number == signal.SIGINT else -number)
        assert child.stderr.read() == b""


@pytest.mark.parametrize("words", [("sub", "lobby"), ("pub", "lobby", "x"), ("send", "@ann", "x")])
def test_errors_name_the_variable_with_the_url(words: tuple[str, ...]) -> None:
    wrong, free = "http://x", f"ws://127.0.0.1:{kit.free_port()}/"
    forms = "ws://HOST:PORT/, wss://HOST:PORT/, or ws+unix:/PATH:/."
    message = f"SIGNAL_ENGINE_URL '{wrong}' is not a WebSocket URL: write {forms}"
    assert kit.complaint(kit.run(*words, SIGNAL_ENGINE_URL=wrong)) == f"signal-engine: {message}\n"
    assert f"--url '{wrong}' is" in kit.complaint(kit.run(*words, "--url", wrong, SIGNAL_ENGINE_URL=free))
    once = ("--once",) if words[0] == "sub" else ()
    assert f"SIGNAL_ENGINE_URL {free} can't be reached" in kit.run(*words, *once, SIGNAL_ENGINE_URL=free).stderr
