"""Tries an installed engine: a node with its own NATS server, a message to a room, and a clean stop.

    VENV/bin/python tests/support/smoke.py

With the environment's own packages only, so that a wheel can be tried where nothing else is installed.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import sysconfig
import tempfile
from importlib.metadata import version
from pathlib import Path

from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

import signal_core.engine

PATIENCE = 30.0  # seconds for everything together
COMMAND = Path(sysconfig.get_path("scripts")) / "signal-engine"
SERVE = ["serve", "--listen", "127.0.0.1:0", "--nats", "embedded", "--drain-time", "0", "--log-format", "json"]


async def check_version() -> None:
    asked = await asyncio.create_subprocess_exec(COMMAND, "--version", stdout=asyncio.subprocess.PIPE)
    output, _ = await asked.communicate()
    assert asked.returncode == 0 and version("signal-engine-ws") in output.decode(), output


async def find_ready(log: asyncio.StreamReader) -> dict[str, object]:
    """The fields of the log line `ready`."""
    async for line in log:
        fields: dict[str, object] = json.loads(line)
        if fields["event"] == "ready":
            return fields
    raise AssertionError("the engine ended before it was ready")


async def receive(client: ClientConnection, verb: str) -> str:
    """The next message, which begins with this verb."""
    message = await client.recv(decode=True)
    assert message.startswith(verb), message
    return message


async def exchange(url: str) -> None:
    """Two clients meet in a room."""
    signal_v1 = [Subprotocol("signal.v1")]
    async with connect(f"{url}?room=lobby", subprotocols=signal_v1) as one, connect(url, subprotocols=signal_v1) as two:
        await receive(one, "HELLO ")
        hello = await receive(two, "HELLO ")
        address = hello.split()[1]
        await two.send("PUB lobby ref=1\nhello")
        assert await receive(two, "OK ") == "OK 1"
        assert await receive(one, "MSG ") == f"MSG lobby {address} ref=1\nhello"


async def main() -> None:
    library = Path(signal_core.engine.__file__)
    assert library.is_relative_to(sysconfig.get_path("platlib")), f"{library} is not that of the wheel"
    await check_version()
    engine = await asyncio.create_subprocess_exec(COMMAND, *SERVE, stderr=asyncio.subprocess.PIPE)
    assert engine.stderr is not None
    try:
        ready = await find_ready(engine.stderr)
        assert ready["nats_state"] == "up", ready
        listening = ready["listening"]
        assert isinstance(listening, list)
        await exchange(listening[0])
        engine.send_signal(signal.SIGTERM)
        await engine.stderr.read()
        assert await engine.wait() == 0, engine.returncode
    finally:
        if engine.returncode is None:
            engine.kill()
    print(f"signal-engine {ready['version']} works: {library.name}, Python {sys.version.split()[0]}")


if __name__ == "__main__":
    os.chdir(tempfile.gettempdir())
    asyncio.run(asyncio.wait_for(main(), PATIENCE))
