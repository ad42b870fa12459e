"""Times the parts of the data path, each alone in a loop: nanoseconds an operation.

    python bench/micro.py                    # all, some seconds
    python bench/micro.py --only wheel,inbox # those whose name has one of these words
    python bench/micro.py --json FILE        # keeps every turn

Every `bench_*` function of signal_core.probe is one, with the arguments of CASES or its defaults. The turns go through
all benchmarks, so that noise of the machine spreads over all. The smallest figure is what the code takes; the distance
to the median shows how quiet the machine was.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from functools import partial
from typing import Any

import signal_core.probe as probe
from results import Figures
from turns import Turn, run

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
    "tls_record": [
        ("128 bytes, keyed anew", {"plain": 128}),
        ("128 bytes, key kept", {"plain": 128, "connections": 1}),
        ("16 KiB, keyed anew", {"plain": 16384}),
    ],
    "wheel": [("1e5 timers", {"conns": 100_000})],
}
FIRST_ITERATIONS = 1000


def find() -> dict[str, partial[float]]:
    """All benchmarks by name."""
    found = {}
    for function in [name.removeprefix("bench_") for name in dir(probe) if name.startswith("bench_")]:
        for case, arguments in CASES.get(function, [("", {})]):
            name = f"{function}, {case}" if case else function
            found[name] = partial(getattr(probe, f"bench_{function}"), **arguments)
    return found


def calibrated(bench: partial[float], seconds: float) -> int:
    """Iterations for a turn of about so long."""
    iterations = FIRST_ITERATIONS
    while bench(iterations) * iterations < seconds * 1e8:
        iterations *= 10
    return max(FIRST_ITERATIONS, int(seconds * 1e9 / bench(iterations)))


def forms(options: argparse.Namespace, _stack: ExitStack) -> dict[str, Turn]:
    iterations: dict[str, int] = {}

    def turn(name: str, bench: partial[float], number: int) -> Figures:
        if number == 0:
            iterations[name] = calibrated(bench, options.seconds)
        return {"ns": bench(iterations[name])}

    return {name: partial(turn, name, bench) for name, bench in find().items()}


if __name__ == "__main__":
    sys.exit(run(__doc__, {"seconds": (0.02, "of each turn")}, forms, turns=7))
