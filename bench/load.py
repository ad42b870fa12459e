"""Runs the load generator (bench/load) and makes figures of what it prints.

    python bench/load.py mix --connections 1000000 --rate 10000 --rooms 100 --members 1000 --room-rate 10 \\
                             --setup 600 --seconds 60 ws://127.0.0.1:9001/

prints the figures as JSON, and ends with 1 if a message was lost or a connection is not open at the end.
`bench/bin/load --help` lists modes and options.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from contenders import HERE
from servers import BenchError

LOAD = HERE / "bin" / "load"
TICKS = os.sysconf("SC_CLK_TCK")
POINTS = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
ERRORS = ("corrupt", "disorder", "connect", "handshake", "closed", "protocol", "blocked")

Run = dict[str, Any]


@dataclass
class Sample:
    """All counters at one moment; CPU seconds (user, system) and Pss in kB by process; CPU seconds by thread; and
    /proc/meminfo in kB."""

    counts: dict[str, int] = field(default_factory=dict)
    cpu: dict[str, tuple[float, float]] = field(default_factory=dict)
    pss: dict[str, int] = field(default_factory=dict)
    threads: list[float] = field(default_factory=list)
    meminfo: dict[str, float] = field(default_factory=dict)

    def add_proc(self, path: str, line: str) -> None:
        """Takes a line of /proc/meminfo, /proc/PID/stat or /proc/PID/smaps_rollup."""
        *_, pid, file = path.split("/")
        if file == "stat":
            fields = line.rpartition(")")[2].split()
            self.cpu[pid] = (int(fields[11]) / TICKS, int(fields[12]) / TICKS)
        elif file == "meminfo":
            self.meminfo[line.partition(":")[0]] = float(line.split()[1])
        elif line.startswith("Pss:"):
            self.pss[pid] = int(line.split()[1])


class Latencies:
    """A histogram, printed as `sum=NS max=NS NS:COUNT…`."""

    def __init__(self, text: str) -> None:
        total, most, *buckets = text.split()
        self.sum, self.max = int(total[4:]), int(most[4:])
        self.buckets = [(int(value), int(n)) for value, n in (bucket.split(":") for bucket in buckets)]
        self.count = sum(n for _, n in self.buckets)

    def percentile(self, share: float) -> int:
        """The value that a share (0 to 1) of all does not exceed; 0 if there are none."""
        rank, seen = max(1, int(share * self.count + 0.5)), 0
        for value, n in self.buckets:
            seen += n
            if seen >= rank:
                return min(value, self.max)
        return self.max

    def curve(self) -> list[tuple[float, int]]:
        """(share, value), ascending: four steps to each halving of what is above, until that is less than one value."""
        shares, above = [], 1.0
        while above * self.count >= 1:
            shares += [1 - above + above / 2 * step / 4 for step in range(4)]
            above /= 2
        return [(share, self.percentile(share)) for share in shares] + ([(1.0, self.max)] if self.count else [])

    def figures(self) -> Run:
        """In microseconds, with the curve as [percentile, µs]."""
        found: Run = {"count": self.count, "mean": round(self.sum / max(self.count, 1) / 1e3, 2)}
        found |= {name: round(self.percentile(share) / 1e3, 2) for name, share in POINTS.items()}
        curve = [[round(share * 100, 9), round(value / 1e3, 2)] for share, value in self.curve()]
        return {**found, "max": round(self.max / 1e3, 2), "curve": curve}


def read(text: str) -> tuple[dict[str, str], dict[str, Sample], dict[str, Latencies]]:
    """The options, the samples (`start` is before the first connection) and the latencies that were printed."""
    options: dict[str, str] = {}
    samples = {"start": Sample()}
    latencies = {}
    last = samples["start"]
    for line in text.splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "options":
            options = {name: value for name, _, value in (word.partition("=") for word in rest.split())}
        elif kind == "opened":
            options["opened_ns"] = rest
        elif kind == "sample":
            name, *words = rest.split()
            counts = {name: int(value) for name, value in (word.split("=") for word in words)}
            last = samples[name] = Sample(counts)
        elif kind == "threads":
            last.threads = [float(word) for word in rest.split()]
        elif kind.startswith("/proc/"):
            last.add_proc(kind, rest)
        elif kind == "latency":
            name, _, buckets = rest.partition(" ")
            latencies[name] = Latencies(buckets)
    return options, samples, latencies


def usage(pids: list[str], before: Sample, after: Sample) -> Run:
    """User and system seconds of these processes between two samples; None if one was not there all the time."""
    known = pids and all(pid in before.cpu and pid in after.cpu for pid in pids)
    names = ("user_s", "system_s")
    return {
        name: round(sum(after.cpu[pid][i] - before.cpu[pid][i] for pid in pids), 4) if known else None
        for i, name in enumerate(names)
    }


def servers(pids: list[str], samples: dict[str, Sample]) -> Run:
    """CPU and growth of memory of these processes in the measured window; None if a figure is unknown."""
    start, before, after = (samples[name] for name in ("start", "before", "after"))
    delivered, ready = after.counts["delivered"] - before.counts["delivered"], after.counts["ready"]
    found = usage(pids, before, after)
    known = delivered and found["user_s"] is not None
    grew = [after.pss[pid] - start.pss[pid] if pid in after.pss and pid in start.pss else -1 for pid in pids]
    return found | {
        "user_us_per_delivery": round(found["user_s"] * 1e6 / delivered, 4) if known else None,
        "cpu_us_per_delivery": round((found["user_s"] + found["system_s"]) * 1e6 / delivered, 4) if known else None,
        "pss_before_kb": sum(start.pss.get(pid, 0) for pid in pids),
        "bytes_per_connection": round(sum(grew) * 1024 / ready, 4) if ready and min(grew, default=-1) >= 0 else None,
    }


def parse(text: str) -> Run:
    """The figures of a run, of which those of messages and CPU are of its measured window; what went wrong is of all.

    BenchError if nothing was measured.
    """
    options, samples, latencies = read(text)
    if "final" not in samples:
        raise BenchError("nothing was measured: the load generator said why")
    before, after, final = samples["before"], samples["after"], samples["final"].counts
    grown = {name: count - before.counts[name] for name, count in after.counts.items()}
    seconds = grown["ns"] / 1e9
    err = {name[4:]: n for name, n in final.items() if name.startswith("err.") and n}
    told = final["delivered"] + final["verified"] + final["gap"] + sum(err.values())
    pids = [pid for pid in options["servers"].split(",") if pid]
    run: Run = {name: options[name] for name in ("mode", "protocol")}
    run |= {name: int(options[name]) for name in ("connections", "threads", "targets", "rooms", "members", "verify")}
    run |= {name: final[name] for name in ("gap", "verified", "pings", "ready", "reopened")}
    run |= {name: grown[name] for name in ("sent", "delivered")}
    run |= {
        "seconds": round(seconds, 3),
        "per_second": round(grown["delivered"] / seconds, 1),
        "pings_measured": grown["pings"],
        "lost": final["expected"] - told if final["expected"] else 0,
        "errors": {name: final[name] for name in ERRORS},
        "err": err,
        "latency_us": latencies["main"].figures(),
        "busiest_thread": max(b - a for a, b in zip(before.threads, after.threads, strict=True)) / seconds,
        "servers": [{"pid": int(pid), **servers([pid], samples)} for pid in pids],
        "all_servers": servers(pids, samples),
    }
    if other := {"mix": "room_latency_us", "relay": "second_latency_us"}.get(run["mode"]):
        run[other] = latencies["other"].figures()
    if "opened_ns" in options:
        took = int(options["opened_ns"]) / 1e9
        run["opened"] = {"seconds": round(took, 3), "per_second": round(run["connections"] / took, 1)}
    if "quiet" in samples:
        begin, end = samples["quiet"], samples["quiet-end"]
        run["quiet"] = {"from": begin.counts["ns"] / 1e9, "to": end.counts["ns"] / 1e9, **usage(pids, begin, end)}
        run["quiet"]["pings"] = end.counts["pings"] - begin.counts["pings"]
        run["meminfo"] = [samples["start"].meminfo, end.meminfo]
    return run


def trouble(run: Run) -> str:
    """What went wrong in a run, or nothing."""
    faults = {**run.get("errors", {}), **run.get("err", {}), **{name: run.get(name, 0) for name in ("lost", "gap")}}
    return ", ".join(f"{name} {count}" for name, count in faults.items() if count)


def incomplete(run: Run) -> bool:
    """Whether a connection is not open at the end, did not come back, or did not receive the final message."""
    most, mode = run["connections"], run["mode"]
    fallen = mode in ("mix", "storm") and run["ready"] != most
    return bool(fallen or (mode == "storm" and run["reopened"] < most) or (run["verify"] and run["verified"] < most))


def load(words: str, urls: Sequence[str], pids: Sequence[int] = ()) -> Run:
    """Runs the load generator, which samples these processes; BenchError if it measured nothing."""
    command = [str(LOAD), *words.split(), *(f"--pid={pid}" for pid in pids), *urls]
    return parse(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout)


def main() -> int:
    """1 if something went wrong."""
    if "--help" in sys.argv:
        print(__doc__)
        return 0
    try:
        run = load(" ".join(sys.argv[1:]), [])
    except (OSError, BenchError) as error:
        sys.exit(f"load.py: {error}")
    print(json.dumps(run))
    return 1 if trouble(run) or incomplete(run) else 0


if __name__ == "__main__":
    sys.exit(main())
