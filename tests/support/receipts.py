"""Whether every ref gets exactly one answer, in time, while nodes, NATS and peers are killed and stopped.

    python tests/support/receipts.py

Two nodes use a nats-server. Senders on the node that stays send TO to peers on both, PUB and SUB, all with refs.
Meanwhile the other node and the nats-server are killed and started again, or stopped for a while, and receivers close
while messages wait for them. Prints the numbers of answers as JSON; exits with 1 if a ref got no answer or two, or one
later than its ttl and a second. Time for which this program, and the loops of the node that stays, waited for a
processor is measured, allowed for, and printed (`kept_waiting_s`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage

import kit

SENDERS = 25
MOST_OUTSTANDING = 60  # refs of a sender: below max-refs
TTLS = (200, 500, 1000)  # ms
ROOMS = [f"receipts.{i}" for i in range(8)]
RECONNECT_PAUSE = 0.1  # seconds until a client that lost its connection opens another
SUB_TTL = 2.0  # seconds: the engines' ttl, which is a SUB's
LATE = 0.25  # seconds by which this program may read an answer late
LOOK = 0.02  # seconds between looks at the waits
PAUSE = 0.02  # seconds between a sender's turns
DOWN = 1.5  # seconds for which something is killed or stopped


class Waits:
    """How long this program and a node's loops have waited for a processor while refs were outstanding."""

    def __init__(self) -> None:
        self.pid = 0  # of the node
        self.moment = 0.0  # time of the last look
        self.before: list[int] = []  # waits of the loops at that time
        # Of each look: its time, how late it was, and the longest wait of a loop since the last one.
        self.looks: deque[tuple[float, float, float]] = deque()
        self.most = 0.0

    def loops(self) -> list[int]:
        """Nanoseconds for which each loop has waited for a processor, as the kernel counts them."""
        found = []
        for task in sorted(Path(f"/proc/{self.pid}/task").iterdir()):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread has ended, which is not a loop
                if (task / "comm").read_text().startswith("signal-"):
                    found.append(int((task / "schedstat").read_text().split()[1]))
        return found

    async def watch(self, pid: int) -> None:
        self.pid = pid
        self.moment, self.before = time.monotonic(), self.loops()
        while True:
            await asyncio.sleep(LOOK)
            self.look()

    def look(self) -> None:
        now, loops = time.monotonic(), self.loops()
        waited = max(new - old for new, old in zip(loops, self.before, strict=True)) / 1e9
        self.looks.append((now, now - self.moment - LOOK, waited))
        self.moment, self.before = now, loops
        while self.looks[0][0] < now - max(TTLS) / 1000 - SUB_TTL:
            self.looks.popleft()
        self.most = max(self.most, self.lately())

    def lately(self) -> float:
        """Seconds of waiting during the life of the refs that are outstanding now."""
        return sum(waited for _, _, waited in self.looks) + max((late for _, late, _ in self.looks), default=0.0)


class Tally:
    """Counts of the answers to refs."""

    def __init__(self) -> None:
        self.waits = Waits()
        self.sent = 0
        self.codes: Counter[str] = Counter()
        self.twice = 0
        self.never = 0
        self.late = 0
        self.latest = -10.0  # seconds after ttl and a second: below 0 is in time
        self.faults: Counter[str] = Counter()

    def answered(self, code: str, due: float) -> None:
        self.codes[code] += 1
        over = time.monotonic() - due
        self.latest = max(self.latest, over)
        if over > LATE:
            self.waits.look()
            self.late += over > LATE + self.waits.lately()

    def good(self) -> bool:
        return not (self.twice or self.never or self.late) and sum(self.codes.values()) == self.sent

    def report(self) -> dict[str, Any]:
        return {
            "refs": self.sent,
            "answers": dict(sorted(self.codes.items())),
            "never_answered": self.never,
            "answered_twice": self.twice,
            "late": self.late,
            "latest_after_ttl_and_1_s": round(self.latest, 3),
            "kept_waiting_s": round(self.waits.most, 3),
            "faults": dict(sorted(self.faults.items())),
        }


class Sender:
    """A connection to the node that stays."""

    def __init__(self, connection: ClientConnection, targets: Callable[[], str], tally: Tally) -> None:
        self.connection = connection
        self.targets = targets
        self.tally = tally
        self.due: dict[str, float] = {}  # by ref that awaits its answer
        self.last = 0

    async def listen(self) -> None:
        async for data in self.connection:
            verb, *words = str(data).split("\n", 1)[0].split(" ")
            if verb not in ("OK", "ERR"):
                continue
            ref = words[0] if verb == "OK" else words[1].removeprefix("ref=")
            due = self.due.pop(ref, None)
            if due is None:
                self.tally.twice += 1
            else:
                self.tally.answered("ok" if verb == "OK" else words[0], due)

    def message(self) -> tuple[str, float]:
        """A random head without a ref, and its ttl in seconds."""
        kind = random.random()
        if kind < 0.1:
            return f"{random.choice(('SUB', 'UNSUB'))} {random.choice(ROOMS)}", SUB_TTL
        ttl = random.choice(TTLS)
        verb = f"PUB {random.choice(ROOMS)}" if kind < 0.2 else f"TO {self.targets()}"
        return f"{verb} ttl={ttl}", ttl / 1000

    async def send(self) -> None:
        head, ttl = self.message()
        self.last += 1
        ref = str(self.last)
        self.tally.sent += 1
        payload = "\n" + "x" * 2000 if "ttl" in head else ""
        self.due[ref] = time.monotonic() + ttl + 1
        await self.connection.send(f"{head} ref={ref}{payload}")

    async def run(self, refs: int, seconds: float) -> None:
        """Sends `refs` messages, evenly over the time, and waits for the last answers."""
        listening = asyncio.ensure_future(self.listen())
        begun = time.monotonic()
        while self.last < refs:
            want = min(refs, int(refs * (time.monotonic() - begun) / seconds) + 1)
            while self.last < want and len(self.due) < MOST_OUTSTANDING:
                await self.send()
            await asyncio.sleep(PAUSE)
        end = time.monotonic() + SUB_TTL + 3
        while self.due and time.monotonic() < end:
            await asyncio.sleep(PAUSE)
        self.tally.never += len(self.due)
        listening.cancel()


class Receivers:
    """Clients of both nodes, which reconnect. Some never read, and close while messages wait for them."""

    def __init__(self) -> None:
        self.addresses: dict[object, str] = {}  # of present and former connections

    def any(self) -> str:
        return random.choice(list(self.addresses.values()))

    async def read(self, port: Callable[[], int]) -> None:
        while True:
            with contextlib.suppress(OSError, ConnectionClosed, InvalidHandshake, InvalidMessage, asyncio.TimeoutError):
                url = f"ws://127.0.0.1:{port()}/?room={random.choice(ROOMS)}"
                async with connect(url, compression=None, close_timeout=0.2, max_queue=None) as connection:
                    self.addresses[asyncio.current_task()] = await address_of(connection)
                    async for _ in connection:
                        pass
            await asyncio.sleep(RECONNECT_PAUSE)

    async def sleep(self, port: Callable[[], int], tally: Tally) -> None:
        while True:
            with contextlib.suppress(OSError, ConnectionClosed, InvalidHandshake, InvalidMessage, asyncio.TimeoutError):
                raw = socket.socket()
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                raw.connect(("127.0.0.1", port()))
                url = f"ws://127.0.0.1:{port()}/"
                connection = await connect(url, sock=raw, compression=None, max_queue=1, ping_interval=None)
                self.addresses[asyncio.current_task()] = await address_of(connection)
                await asyncio.sleep(random.uniform(1, 3))
                connection.transport.abort()
                tally.faults["a receiver closes over its backlog"] += 1
            await asyncio.sleep(RECONNECT_PAUSE)


async def address_of(connection: ClientConnection) -> str:
    return str(await connection.recv()).split("\n", 1)[0].removeprefix("HELLO ")


class Cluster:
    """A nats-server, a node that stays, and one that is killed and stopped."""

    def __init__(self) -> None:
        self.nats = kit.Nats("", ())
        self.nats.start()
        self.settings = {"nats": self.nats.url, "loops": 2, "ttl": SUB_TTL, "stall_timeout": 60}
        self.stays = self.started()
        self.goes = self.started()

    def started(self) -> kit.Engine:
        engine = kit.Engine(self.settings)
        engine.start()
        return engine

    def end(self) -> None:
        for engine in (self.stays, self.goes):
            engine.end(signal.SIGKILL)
        self.nats.stop()

    async def kill_node(self) -> None:
        self.goes.kill()
        await asyncio.sleep(DOWN)
        self.goes = await asyncio.to_thread(self.started)

    async def kill_nats(self) -> None:
        self.nats.stop()
        await asyncio.sleep(DOWN)
        await asyncio.to_thread(self.nats.start)

    async def stop_node(self) -> None:
        await self.stop_for_a_while(self.goes)

    async def stop_nats(self) -> None:
        await self.stop_for_a_while(self.nats)

    async def stop_for_a_while(self, process: kit.Process) -> None:
        os.kill(process.pid, signal.SIGSTOP)
        await asyncio.sleep(DOWN)
        os.kill(process.pid, signal.SIGCONT)

    async def break_things(self, tally: Tally) -> None:
        """Causes one fault after another, with time between them in which nodes reconnect to NATS."""
        faults = {
            "the other node is killed": self.kill_node,
            "NATS is killed": self.kill_nats,
            "the other node hangs": self.stop_node,
            "NATS hangs": self.stop_nats,
        }
        while True:
            for name, fault in faults.items():
                await asyncio.sleep(DOWN)
                await fault()
                tally.faults[name] += 1


@contextlib.asynccontextmanager
async def running(*work: Any) -> AsyncIterator[None]:
    """Runs these coroutines until the end of the block."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        yield
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def measure(refs: int, seconds: float) -> Tally:
    """Sends `refs` messages with refs in `seconds` under faults."""
    cluster, receivers, tally = Cluster(), Receivers(), Tally()
    random.seed(4)

    def here() -> int:
        return cluster.stays.port

    def there() -> int:
        return cluster.goes.port

    try:
        crowd = [receivers.read(port) for port in (here, there) for _ in range(10)]
        crowd += [receivers.sleep(port, tally) for port in (here, there) for _ in range(3)]
        async with running(*crowd), contextlib.AsyncExitStack() as stack:
            while len(receivers.addresses) < len(crowd):
                await asyncio.sleep(0.05)
            senders = []
            for _ in range(SENDERS):
                connection = connect(f"ws://127.0.0.1:{here()}/", compression=None, max_queue=None)
                senders.append(Sender(await stack.enter_async_context(connection), receivers.any, tally))
                await senders[-1].connection.recv()
            async with running(cluster.break_things(tally), tally.waits.watch(cluster.stays.pid)):
                await asyncio.gather(*(sender.run(refs // SENDERS, seconds) for sender in senders))
    finally:
        cluster.end()
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--refs", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=120.0)
    options = parser.parse_args()
    tally = asyncio.run(measure(options.refs, options.seconds))
    print(json.dumps(tally.report(), indent=2))
    return 0 if tally.good() else 1


if __name__ == "__main__":
    sys.exit(main())
