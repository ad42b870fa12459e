"""Whether operators heard of every node: a list that may lack one says so."""

import asyncio
import os
import signal
from pathlib import Path

import kit
from peers import BarePeer
from signal_py.control import Control
from wire import until

from .test_control import await_control, ctl


def is_stopped(pid: int) -> bool:
    """Whether each of its threads is: a signal stops them one after another."""
    states = [path.read_text().rpartition(")")[2].split()[0] for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return set(states) == {"T"}


def await_unheard(server: kit.Nats, count: int) -> None:
    """Returns once the nodes that answer hear of so many that don't."""

    async def run() -> None:
        async with Control(nats=server.url, timeout=1) as control:
            while (await control.discover()).unheard != count:
                await asyncio.sleep(0.02)

    asyncio.run(asyncio.wait_for(run(), kit.PATIENCE))


def test_a_node_that_others_hear_of_and_that_does_not_answer() -> None:
    """What the others know is printed, with a sentence and exit status 1, until that node has gone."""
    with kit.nats() as server, kit.engine(nats=server.url, loops=1) as one:
        with (
            kit.engine(nats=server.url, loops=1, control="off") as two,
            BarePeer(one.port, "room") as here,
            BarePeer(two.port, "room"),
        ):
            await_unheard(server, 1)
            for words in (("members", "room"), ("rooms",), ("stats",), ("nodes",)):
                status, found, said = ctl(server, *words)
                assert (status, len(found)) == (1, 1), (words, found, said)
                assert said.startswith("signal-engine: 1 more nodes of the cluster did not answer"), said
            status, found, _ = ctl(server, "members", "room")
            assert [member["peer"] for member in found] == [here.address]
            status, _, said = ctl(server, "stats", "--node", one.node)
            assert (status, said) == (0, "")
        await_unheard(server, 0)
        status, found, said = ctl(server, "nodes")
        assert (status, [node["nodes"] for node in found], said) == (0, [1], "")


def test_a_node_that_is_late_to_tell_of_itself_is_waited_for() -> None:
    """Longer than the time without another answer after which all that are known have told."""
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
                os.kill(two.pid, signal.SIGSTOP)
                try:
                    await asyncio.to_thread(until, lambda: is_stopped(two.pid), "all its threads are stopped")
                    asked = asyncio.ensure_future(control.discover())
                    done, _ = await asyncio.wait([asked], timeout=1.5)
                finally:
                    os.kill(two.pid, signal.SIGCONT)
                assert not done, "it did not wait"
                gathered = await asked
                assert {node.node for node in gathered.answers} == {one.node, two.node} and gathered.complete

        asyncio.run(run())
