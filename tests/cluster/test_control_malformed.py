"""What an operator sees of nodes with malformed answers, and what a query leaves behind."""

import asyncio
import json

import pytest
from nats.aio.msg import Msg

import kit
from signal_py.control import Control, ControlError

from .bus import Bus


def answer(bus: Bus, subject: str, text: str) -> None:
    """Answers requests to a subject with this text from now on."""

    async def reply(message: Msg) -> None:
        await message.respond(text.encode())

    bus.run(bus.client.subscribe(subject, cb=reply))
    bus.flush()


def ping(**more: str) -> str:
    about = {"node": "odd", "prefix": "signal", "version": "1", "control": "1", "listen": ""}
    return json.dumps({"metadata": about | more})


def test_nothing_of_a_node_reaches_the_terminal_raw() -> None:
    with kit.nats() as server, Bus(server.url) as bus:
        answer(bus, "$SRV.PING.signal-engine", ping(version="1\ud800\x1b[2J\n2"))
        answer(bus, "signal.ctl.stats", '{"node": "odd", "error": "unavailable", "text": "no\\n\\u001b[2J\\ud800"}')
        done = kit.run("ctl", "nodes", SIGNAL_ENGINE_NATS=server.url)
        assert (done.returncode, done.stdout, done.stderr) == (0, "odd  1\\ud800\\x1b[2J\\n2  \n", "")
        done = kit.run("ctl", "stats", SIGNAL_ENGINE_NATS=server.url)
        assert (done.returncode, done.stderr) == (1, "signal-engine: odd: unavailable: no\\n\\x1b[2J\\ud800\n")


@pytest.mark.parametrize(
    "text",
    ["[" * 60000, '{"node": "odd", "rooms": []}', '{"node": "odd", "rooms": {"a": 1e999}}', '{"node": "odd"}', "\x00"],
)
def test_a_malformed_answer_is_no_answer(text: str) -> None:
    with kit.nats() as server, Bus(server.url) as bus:
        answer(bus, "$SRV.PING.signal-engine", ping())
        answer(bus, "signal.ctl.rooms", text)
        done = kit.run("ctl", "rooms", "--timeout", "0.4", SIGNAL_ENGINE_NATS=server.url)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", "signal-engine: odd did not answer\n")


NOBODY_MAY = 'authorization { users: [ { user: a, password: b, permissions: { publish: { deny: ">" } } } ] }'


def test_a_query_that_fails_leaves_no_subscription() -> None:
    async def ask(url: str) -> None:
        async with Control(nats=url, nats_user="a", nats_password="b") as control:
            for _ in range(3):
                with pytest.raises(ControlError, match="does not allow"):
                    await control.nodes()
            assert control._client is not None and control._client._subs == {}

    with kit.nats(config=NOBODY_MAY) as server:
        asyncio.run(ask(server.url))


def test_connecting_again_ends_the_first_connection() -> None:
    async def connect(url: str) -> None:
        async with Control(nats=url) as control:
            first = control._client
            await control.connect()
            assert first is not None and first.is_closed and await control.nodes() == []

    with kit.nats() as server:
        asyncio.run(connect(server.url))
