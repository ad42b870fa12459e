"""Whether every node answered: a list that may lack one says so."""

import asyncio
import os
import signal

import kit
from peers import BarePeer
from signal_py.control import Control

from .test_control import await_control, ctl


def await_silent(server: kit.Nats, count: int) -> None:
    """Returns once the nodes that answer know of `count` others that don't."""

    async def run() -> None:
        async with Control(nats=server.url, timeout=1) as control:
            while (await control.discover()).unheard != count:
                await asyncio.sleep(0.02)

    asyncio.run(asyncio.wait_for(run(), kit.PATIENCE))


def test_a_node_that_others_know_and_that_does_not_answer() -> None:
    """The answers of the others are printed, with an error and exit status 1, until that node is gone."""
    with kit.nats() as server, kit.engine(nats=server.url, loops=1) as one:
        with (
            kit.engine(nats=server.url, loops=1, control="off") as two,
            BarePeer(one.port, "room") as here,
            BarePeer(two.port, "room"),
        ):
            await_silent(server, 1)
            silent = "signal-engine: 1 more nodes of the cluster did not answer"
            for words in (("members", "room"), ("rooms",), ("stats",), ("nodes",)):
                while not (answer := ctl(server, *words))[2].startswith(silent):
                    assert answer[0] == 1, answer  # the other one may take longer than ctl waits
                status, found, stderr = answer
                assert (status, len(found)) == (1, 1), (words, found, stderr)
                if words[0] == "members":
                    assert found[0]["peer"] == here.address
            status, _, stderr = ctl(server, "stats", "--node", one.node)
            assert (status, stderr) == (0, "")
        await_silent(server, 0)
        status, found, stderr = ctl(server, "nodes")
        assert (status, [node["nodes"] for node in found], stderr) == (0, [1], "")


def test_a_slow_node_is_waited_for() -> None:
    """Longer than the pause after which discovery ends when all known nodes have answered."""
    with (
        kit.nats() as server,
        kit.engine(nats=server.url, loops=1) as one,
        kit.engine(nats=server.url, loops=1) as two,
    ):
        await_control(server, one, two)

        async def run() -> None:
            async with Control(nats=server.url, timeout=30) as control:
                while {node.nodes for node in await control.nodes()} != {2}:
                    await asyncio.sleep(0.02)
                await asyncio.to_thread(kit.freeze, two)
                try:
                    asked = asyncio.ensure_future(control.discover())
                    done, _ = await asyncio.wait([asked], timeout=1.5)
                finally:
                    os.kill(two.pid, signal.SIGCONT)
                assert not done, "it waits"
                gathered = await asked
                assert {node.node for node in gathered.answers} == {one.node, two.node} and gathered.complete

        asyncio.run(run())
