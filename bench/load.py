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
from typing import Any

from contenders import HERE

LOAD = HERE / "bin" / "load"
TICKS = os.sysconf("SC_CLK_TCK")
POINTS = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
ERRORS = ("corrupt", "disorder", "connect", "handshake", "closed", "protocol", "blocked")

Run = dict[str, Any]


class LoadError(Exception):
    """The load generator measured nothing."""


class Sample:
    """All counters at one moment, and CPU seconds (user, system) and Pss in kB by process."""

    def __init__(self, counts: dict[str, int]) -> None:
        self.counts = counts
        self.cpu: dict[str, tuple[float, float]] = {}
        self.pss: dict[str, int] = {}
        self.threads: list[float] = []

    def add(self, kind: str, text: str) -> None:
        """Takes a line about a process or the threads."""
        if kind == "threads":
            self.threads = [float(word) for word in text.split()]
            return
        pid, file, line = text.split(" ", 2)
        if file == "stat":
            fields = line.rpartition(")")[2].split()
            self.cpu[pid] = (int(fields[11]) / TICKS, int(fields[12]) / TICKS)
        elif line.startswith("Pss:"):
            self.pss[pid] = int(line.split()[1])


class Output:
    """What the load generator printed."""

    def __init__(self, text: str) -> None:
        self.options: dict[str, str] = {}
        self.samples: dict[str, Sample] = {}
        self.latency: dict[str, str] = {}
        self.opened = 0.0
        start = last = Sample({})
        for line in text.splitlines():
            kind, _, rest = line.partition(" ")
            if kind == "options":
                self.options = dict(word.split("=") for word in rest.split())
            elif kind == "opened":
                self.opened = int(rest) / 1e9
            elif kind == "sample":
                name, *words = rest.split()
                last = self.samples[name] = Sample({k: int(v) for k, v in (word.split("=") for word in words)})
            elif kind == "latency":
                name, _, buckets = rest.partition(" ")
                self.latency[name] = buckets
            elif kind in ("proc", "threads"):
                last.add(kind, rest)
        self.start = start

    def grown(self, name: str, first: str = "before", then: str = "after") -> int:
        """By how much a counter grew between two samples."""
        return self.samples[then].counts[name] - self.samples[first].counts[name]

    def seconds(self, first: str = "before", then: str = "after") -> float:
        return self.grown("ns", first, then) / 1e9

    def cpu(self, pids: list[str], first: str = "before", then: str = "after") -> list[float] | None:
        """User and system seconds of these processes between two samples; None if one was not there all the time."""
        a, b = self.samples[first].cpu, self.samples[then].cpu
        if not all(pid in a and pid in b for pid in pids):
            return None
        return [sum(b[pid][i] - a[pid][i] for pid in pids) for i in (0, 1)]


# -- latencies --


class Latencies:
    """A histogram: how many messages took so many nanoseconds."""

    def __init__(self, text: str = "sum=0 max=0") -> None:
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


# -- figures --


def each(amount: float | None, n: int) -> float | None:
    """An amount divided by n; None if either is missing."""
    return round(amount / n, 4) if n and amount is not None and amount >= 0 else None


def usage(out: Output, pids: list[str]) -> Run:
    """CPU and growth of memory of these processes in the measured window; None where a figure is unknown."""
    used, delivered = out.cpu(pids) if pids else None, out.grown("delivered")
    user, system = used or (None, None)
    before, after = out.start.pss, out.samples["after"].pss
    grew = [after[pid] - before[pid] if pid in after and pid in before else -1 for pid in pids]
    growth = sum(grew) * 1024 if pids and min(grew) >= 0 else None
    return {
        "user_s": user,
        "system_s": system,
        "user_us_per_delivery": each(user * 1e6 if user is not None else None, delivered),
        "cpu_us_per_delivery": each(sum(used) * 1e6 if used else None, delivered),
        "pss_before_kb": sum(before.get(pid, 0) for pid in pids),
        "bytes_per_connection": each(growth, out.samples["after"].counts["ready"]),
    }


def counted(out: Output) -> Run:
    """The messages: of the measured window, and what went wrong in all."""
    final, seconds = out.samples["final"].counts, out.seconds()
    err = {name[4:]: n for name, n in final.items() if name.startswith("err.") and n}
    told = final["delivered"] + final["verified"] + final["gap"] + sum(err.values())
    return {
        "sent": out.grown("sent"),
        "delivered": out.grown("delivered"),
        "per_second": round(out.grown("delivered") / seconds, 1),
        "lost": final["expected"] - told if final["expected"] else 0,
        **{name: final[name] for name in ("gap", "verified", "pings", "ready", "reopened")},
        "pings_measured": out.grown("pings"),
        "errors": {name: final[name] for name in ERRORS},
        "err": err,
    }


def parse(text: str) -> Run:
    """The figures of a run; LoadError if nothing was measured."""
    out = Output(text)
    if "final" not in out.samples:
        raise LoadError(f"nothing was measured: {text[-300:]!r}")
    options, seconds = out.options, out.seconds()
    numbers = ("connections", "threads", "targets", "payload", "rooms", "members", "verify")
    pids = [pid for pid in options["servers"].split(",") if pid]
    run: Run = {"mode": options["mode"], "protocol": options["protocol"], "room_rate": float(options["room_rate"])}
    run |= {name: int(options[name]) for name in numbers}
    run |= {"seconds": round(seconds, 3), **counted(out)}
    if out.opened:
        run["opened"] = {"seconds": round(out.opened, 3), "per_second": round(run["connections"] / out.opened, 1)}
    other = {"mix": "room_latency_us", "relay": "second_latency_us"}.get(run["mode"])
    run["latency_us"] = Latencies(out.latency["main"]).figures()
    run |= {other: Latencies(out.latency["other"]).figures()} if other else {}
    if "quiet" in out.samples:
        window = ("quiet", "quiet-end")
        user, system = out.cpu(pids, *window) or (None, None)
        begin, end = (out.samples[name].counts["ns"] / 1e9 for name in window)
        pings = out.grown("pings", *window)
        run["quiet"] = {"from": begin, "to": end, "pings": pings, "user_s": user, "system_s": system}
    before, after = out.samples["before"].threads, out.samples["after"].threads
    run["busiest_thread"] = round(max(b - a for a, b in zip(before, after, strict=True)) / seconds, 3)
    return {**run, "servers": [{"pid": int(pid), **usage(out, [pid])} for pid in pids], "all_servers": usage(out, pids)}


def trouble(run: Run) -> str:
    """What went wrong in a run, or nothing."""
    faults = {**run.get("errors", {}), **run.get("err", {}), **{name: run.get(name, 0) for name in ("lost", "gap")}}
    return ", ".join(f"{name} {count}" for name, count in faults.items() if count)


def incomplete(run: Run) -> bool:
    """Whether a connection is not open at the end, did not come back, or did not receive the final message."""
    most, mode = run["connections"], run["mode"]
    fallen = mode in ("mix", "storm") and run["ready"] != most
    return bool(fallen or (mode == "storm" and run["reopened"] < most) or (run["verify"] and run["verified"] < most))


def load(words: str, urls: list[str], pids: Sequence[int] = ()) -> Run:
    """Runs the load generator, which samples these processes; LoadError if it measured nothing."""
    command = [str(LOAD), *words.split(), *(f"--pid={pid}" for pid in pids), *urls]
    return parse(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout)


def main() -> int:
    """1 if something went wrong."""
    if "--help" in sys.argv:
        print(__doc__)
        return 0
    if not LOAD.exists():
        sys.exit(f"{LOAD} is not built: make -C {HERE.name} load")
    done = subprocess.run([str(LOAD), *sys.argv[1:]], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        return done.returncode
    run = parse(done.stdout)
    print(json.dumps(run))
    return 1 if trouble(run) or incomplete(run) else 0


if __name__ == "__main__":
    sys.exit(main())
