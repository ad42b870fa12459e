"""Very many WebSockets on one engine: bytes and CPU of an idle one, and what a message among them costs.

    make bench-scale N=1000000
    make bench-scale N=1000000 ARGS="--ping-interval 3600"

One engine process, whose loops and the load generator's threads each have a descriptor table of their own, so that
the limit of descriptors does not bound the process. All connections are opened, kept alive by pings, left quiet for
a while, and then messages are relayed between random ones and published into rooms spread over them. The same load
with 1,000 connections over as many loops, before and after, says what the number of connections does to a message:
without pings, which are work of their own. So a run for that has a --ping-interval of more than two runs.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from contenders import ENGINE, HERE, Contender, loops_for, no_engine
from machine import description
from results import RESULTS, write
from scale_figures import FEW, figures, shown, trouble
from servers import BenchError, free_port, many_descriptors, running
from signal_py.settings import Config

FEW_SECONDS = 60.0
BYTES_A_CONNECTION = 8_600  # of memory, user's and the kernel's, both ends: more than was ever measured
LOOPS_MAX = 250  # the engine's bound
SAMPLE_S = 0.5
PAGE_KB = 4

KB = dict[str, float]


def fields_kb(meminfo: str) -> KB:
    """/proc/meminfo as kB by name."""
    lines = (line.split() for line in meminfo.splitlines())
    return {words[0].rstrip(":"): float(words[1]) for words in lines if len(words) > 1}


def tcp_pages(sockstat: str) -> int:
    """Pages that TCP's buffers take, by /proc/net/sockstat."""
    words = next((line.split() for line in sockstat.splitlines() if line.startswith("TCP:")), [])
    return int(words[words.index("mem") + 1]) if "mem" in words else 0


def kernel_kb(meminfo: str, sockstat: str) -> KB:
    """The kernel's memory: what it counts as its own, and all that is neither free, a file's, nor a process's."""
    kb = fields_kb(meminfo)
    files = kb["Buffers"] + kb["Cached"] + kb.get("SwapCached", 0.0)
    return {
        "counted": kb["Slab"] + kb["KernelStack"] + kb["PageTables"],
        "slab": kb["Slab"],
        "stacks": kb["KernelStack"],
        "page_tables": kb["PageTables"],
        "tcp_buffers": float(tcp_pages(sockstat) * PAGE_KB),
        "all_but_user": kb["MemTotal"] - kb["MemFree"] - files - kb["AnonPages"],
    }


def read_kernel() -> KB:
    """kernel_kb of now."""
    files = (Path("/proc/meminfo"), Path("/proc/net/sockstat"))
    return kernel_kb(*(file.read_text(encoding="ascii") for file in files))


class Sampler(threading.Thread):
    """Reads the kernel's memory now and then, until it is stopped: on the load generator's clock."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.samples: list[tuple[float, KB]] = [(time.monotonic(), read_kernel())]
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(SAMPLE_S):
            self.samples.append((time.monotonic(), read_kernel()))

    def stop(self) -> None:
        """Return when it reads no more."""
        self._over.set()
        self.join()

    def at(self, when: float) -> KB:
        """The sample next to a moment."""
        return min(self.samples, key=lambda sample: abs(sample[0] - when))[1]


def load_command(options: argparse.Namespace, connections: int, seconds: float) -> list[str]:
    """What the load generator is to do with so many connections, but for the server."""
    command = ["mix", "--connections", str(connections), "--threads", str(options.loops), "--rate", f"{options.rate:g}"]
    command += ["--rooms", str(options.rooms), "--members", str(options.members)]
    command += ["--room-rate", f"{options.room_rate:g}", "--quiet", f"{options.quiet:g}", "--seconds", f"{seconds:g}"]
    return [*command, "--setup", str(min(3600, 60 + connections // 500))]


def engine(options: argparse.Namespace) -> Contender:
    """The engine as it is started: with so many loops, and its own pings unless others are asked for."""
    plain = ENGINE.with_loops(options.loops)
    if options.ping_interval is None:
        return plain
    return replace(plain, command=f"{plain.command} --ping-interval {options.ping_interval:g}")


def measure(options: argparse.Namespace, connections: int, seconds: float) -> dict[str, Any]:
    """One engine under the load: the load generator's JSON, and the kernel's memory before and with all open."""
    port = free_port()
    command = engine(options).filled(port=port, nats="off", node="bench0")
    with running(command, port) as pid:
        sampler = Sampler()
        sampler.start()
        load = [str(options.load), *load_command(options, connections, seconds)]
        load += ["--pid", str(pid), f"ws://127.0.0.1:{port}/"]
        done = subprocess.run(load, stdout=subprocess.PIPE, check=False)
        sampler.stop()
    if not done.stdout:
        raise BenchError(f"{shlex.join(load)} ended with {done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout)
    result["kept"] = done.returncode == 0
    result["kernel_kb"] = {"before": sampler.samples[0][1], "open": sampler.at(result["quiet"]["to"])}
    return result


def short_of_memory(connections: int, available_kb: float) -> str:
    """Why so many connections are not tried, or nothing."""
    needed, have = connections * BYTES_A_CONNECTION / 1e9, available_kb * 1024 / 1e9
    if needed <= have:
        return ""
    return f"{connections:,} connections need about {needed:.1f} GB for both ends, and {have:.1f} GB are available"


def cannot(options: argparse.Namespace) -> str:
    """Why it can't run here, or nothing."""
    if not options.load.exists():
        return f"{options.load} is not built: make -C {HERE.name} load"
    if told := no_engine():
        return f"the engine is {told}"
    if options.loops > LOOPS_MAX:
        return f"{options.connections:,} connections need {options.loops} loops, and an engine has at most {LOOPS_MAX}"
    if options.rooms * options.members > FEW:
        return f"--rooms x --members must be at most {FEW}: the same rooms are made among {FEW} connections"
    available = fields_kb(Path("/proc/meminfo").read_text(encoding="ascii"))["MemAvailable"]
    return short_of_memory(options.connections, available)


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--connections", type=int, default=1_000_000, help="how many (default 1000000)")
    parser.add_argument("--seconds", type=float, default=600.0, help="under load (default 600)")
    parser.add_argument("--quiet", type=float, default=60.0, help="of pings only, before it (default 60)")
    parser.add_argument("--loops", type=int, default=0, help="of the engine (default: as descriptors demand, or 2)")
    parser.add_argument("--rate", type=float, default=10_000.0, help="messages a second between random ones")
    parser.add_argument("--rooms", type=int, default=10, help="(default 10)")
    parser.add_argument("--members", type=int, default=100, help="of each room (default 100)")
    parser.add_argument("--room-rate", type=float, default=10.0, help="publishes a second (default 10)")
    parser.add_argument("--ping-interval", type=float, metavar="S", help="the engine's (default: its own default)")
    parser.add_argument("--load", type=Path, default=HERE / "bin" / "load", help="the load generator")
    parser.add_argument("--json", type=Path, help="file of results (default: bench/results/scale-N[-ping-S].json)")
    options = parser.parse_args(arguments)
    if options.connections < FEW:
        parser.error(f"--connections: at least {FEW}")
    options.loops = options.loops or max(2, loops_for(options.connections))
    options.json = options.json or RESULTS / f"scale-{options.connections}{ping_suffix(options.ping_interval)}.json"
    return options


def ping_suffix(interval: float | None) -> str:
    """What tells the file of a run with pings of its own from that with the engine's."""
    return "" if interval is None else f"-ping-{interval:g}"


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Few, many, few again."""

    def tell(connections: int) -> None:
        print(f"{connections:,} connections on {options.loops} loops", file=sys.stderr, flush=True)

    few = []
    seconds = min(FEW_SECONDS, options.seconds)
    tell(FEW)
    few.append(measure(options, FEW, seconds))
    tell(options.connections)
    many = measure(options, options.connections, options.seconds)
    tell(FEW)
    few.append(measure(options, FEW, seconds))
    return {
        "connections": options.connections,
        "loops": options.loops,
        "engine": engine(options).shown(),
        "ping_interval": Config().ping_interval if options.ping_interval is None else options.ping_interval,
        "load": shlex.join(load_command(options, options.connections, options.seconds)),
        "many": many,
        "few": few,
    }


def main() -> int:
    """0; 1 where it can't run, or something did not hold."""
    options = parse_options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the engine and the load generator are ended
    many_descriptors()
    if told := cannot(options):
        print(told, file=sys.stderr)
        return 1
    head = description()
    try:
        scale = run(options)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    command = f"make bench-scale N={options.connections} SECONDS={options.seconds:g} QUIET={options.quiet:g}"
    if options.ping_interval is not None:
        command += f' ARGS="--ping-interval {options.ping_interval:g}"'
    write(options.json, {**head, "command": command, "scale": {**scale, "figures": figures(scale)}})
    print(shown(scale))
    faults = trouble(scale)
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
