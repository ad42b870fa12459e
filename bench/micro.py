"""Times the parts of the data path, each alone in a loop: nanoseconds an operation.

    python bench/micro.py                    # all, some seconds
    python bench/micro.py inbox wheel        # those whose name has one of these words
    python bench/micro.py --json FILE        # keeps every round

Every `bench_*` function of signal_core.probe is one, with the arguments of CASES or its defaults. The rounds go through
all benchmarks in turn, so that noise of the machine spreads over all; min is what the code takes, the distance to the
median tells how quiet the machine was.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import signal_core.probe as probe
from results import add_json, keep

REQUEST = (
    b"GET /?room=lobby HTTP/1.1\r\nHost: example.org\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: signal.v1\r\nOrigin: https://example.org\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\r\n"
)
CASES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "frame_decode": [("128 bytes", {"payload": 128}), ("4 KiB", {"payload": 4096})],
    "unmask": [("128 bytes", {"payload": 128}), ("64 KiB", {"payload": 65536})],
    "utf8": [("128 bytes ASCII", {"text": b"a" * 128}), ("128 bytes Cyrillic", {"text": "ж".encode() * 64})],
    "upgrade": [("a browser's", {"request": REQUEST})],
    "nats_put_hpub_head": [("", {}), ("with a ref", {"with_ref": True})],
    "slab_find": [("1e5 connections", {"conns": 100_000})],
    "inbox": [("chain of 1", {"chain": 1}), ("chain of 64", {"chain": 64})],
    "table_find": [("1e4 rooms", {"rooms": 10_000})],
    "wheel": [("1e5 timers", {"conns": 100_000})],
}
FIRST_ITERATIONS = 1000


@dataclass
class Bench:
    name: str
    run: Callable[..., float]
    arguments: dict[str, Any]
    iterations: int = FIRST_ITERATIONS
    rounds: list[float] = field(default_factory=list)

    def calibrate(self, seconds: float) -> None:
        """Iterations for a round of about so long."""
        while self.run(self.iterations, **self.arguments) * self.iterations < seconds * 1e8:
            self.iterations *= 10
        each = self.run(self.iterations, **self.arguments)
        self.iterations = max(FIRST_ITERATIONS, int(seconds * 1e9 / each))


def find(words: list[str]) -> list[Bench]:
    """All benchmarks, or those whose name has one of the words."""
    found = []
    for function in [name.removeprefix("bench_") for name in dir(probe) if name.startswith("bench_")]:
        for case, arguments in CASES.get(function, [("", {})]):
            name = f"{function}, {case}" if case else function
            if not words or any(word in name for word in words):
                found.append(Bench(name, getattr(probe, f"bench_{function}"), arguments))
    return found


def positive(text: str) -> float:
    if not (value := float(text)) > 0:
        raise ValueError
    return value


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("words", metavar="WORD", nargs="*", help="only benchmarks whose name has one of these")
    parser.add_argument("--rounds", type=int, default=7, help="of all benchmarks in turn (default 7)")
    parser.add_argument("--seconds", type=positive, default=0.02, help="of one round of one benchmark (default 0.02)")
    add_json(parser)
    options = parser.parse_args()
    benches = find(options.words)
    if not benches or options.rounds < 1:
        parser.error("no benchmark has such a name" if not benches else "--rounds: at least 1")
    for bench in benches:
        bench.calibrate(options.seconds)
    for _ in range(options.rounds):
        for bench in benches:
            bench.rounds.append(bench.run(bench.iterations, **bench.arguments))
    width = max(len(bench.name) for bench in benches)
    print(f"{'':{width}}  {'min ns':>9}  {'median ns':>9}")
    for bench in benches:
        print(f"{bench.name:{width}}  {min(bench.rounds):9.2f}  {statistics.median(bench.rounds):9.2f}")
    keep(options.json, {bench.name: [{"ns": ns} for ns in bench.rounds] for bench in benches})
    return 0


if __name__ == "__main__":
    sys.exit(main())
