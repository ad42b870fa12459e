"""How relays fare in a storm: 200,000 other connections are cut and opened again, in turn with quiet.

    python bench/storm.py                              # all cut at one moment
    python bench/storm.py --rate 3000                  # so many a second
    python bench/storm.py --away 4096                  # one after another, so many at a time
    python bench/storm.py --own-processor              # by clients that have a processor to themselves
    python bench/storm.py --server "--accept-yield off"    # at an engine without accept pacing
    python bench/storm.py --apart --server "--accept-rate 8000"    # relays at another engine than the storm
    python bench/storm.py --json bench/results/storm.json  # keeps the turns, beside those of other forms

One load generator relays, another one is the storm. The figures are the relays' latency in the quiet before, and from
the cut until the last connection of the storm has its HELLO again. With --apart the relays and their engine share
nothing with the storm but the processors: their delay is the machine's. With --own-processor the storm's clients run on
one processor, and the engine and the relays' clients on the others, almost as if the clients were elsewhere. The exit
status is 1 if a message was lost or anything else went wrong.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from load import LOAD, Run, incomplete, parse, trouble
from results import Figures
from servers import BenchError, engine, stop
from turns import Turn, run

ROOM = 15_000  # connections a loop, within the usual hard limit of 20,000 descriptors a table
PERCENTILES = ("p50", "p90", "p99", "p999", "max")
AT_ONCE = "all at one moment"  # the form without options
RELAYS = "relay --connections 500 --rate 1000 --seconds 8 --second"
PAUSE = 2.0  # seconds between turns


@contextmanager
def processors(own: bool, storm: bool) -> Iterator[None]:
    """With --own-processor, what starts in the block runs on the storm's processor or on the others."""
    everywhere = os.sched_getaffinity(0)
    apart = {max(everywhere)}
    if own and len(everywhere) < 2:
        raise SystemExit("storm: --own-processor needs two processors")
    if own:
        os.sched_setaffinity(0, apart if storm else everywhere - apart)
    try:
        yield
    finally:
        os.sched_setaffinity(0, everywhere)


class Loading:
    """A load generator that waits for us at certain moments."""

    def __init__(self, words: str, url: str) -> None:
        command = [str(LOAD), *words.split(), url]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.said = ""

    def wait(self, now: str) -> None:
        """Returns when it waits for us; BenchError if it ends instead."""
        assert self.process.stdout
        for line in self.process.stdout:
            self.said += line
            if line == f"now {now}\n":
                return
        raise BenchError(f"load ended with {self.process.wait()} before '{now}'")

    def go_on(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> Run:
        """Lets it go on to its end; its figures."""
        self.go_on()
        assert self.process.stdout
        self.said += self.process.stdout.read()
        return parse(self.said)

    def close(self) -> None:
        stop(self.process)


def turn_of(relays: Run, storm: Run) -> Figures:
    """A turn as it is kept: latencies in microseconds, p99 in the storm by that of the quiet, and what went wrong."""
    latencies = {"quiet": relays["latency_us"], "storm": relays["second_latency_us"]}
    found = {f"{when}_{name}_us": us[name] for when, us in latencies.items() for name in PERCENTILES}
    found |= {"ratio": round(found["storm_p99_us"] / found["quiet_p99_us"], 2), "lost": relays["lost"]}
    wrong = [*filter(None, (trouble(relays), trouble(storm)))]
    wrong += ["a connection is not open"] if incomplete(storm) else []
    return found | ({"wrong": ", ".join(wrong)} if wrong else {})


def form_of(options: argparse.Namespace) -> str:
    """The name of a form of the storm: its options, as they are typed."""
    words = [f"--rate {options.rate:g}"] if options.rate else []
    words += [f"--away {options.away}"] if options.away else []
    words += ["--own-processor"] if options.own_processor else []
    words += [f"--server {shlex.quote(options.server)}"] if options.server else []
    words += ["--apart"] if options.apart else []
    return " ".join(words) or AT_ONCE


def stormed(storm_words: str, relay_words: str, stormed_url: str, relayed_url: str, own: bool) -> tuple[Run, Run]:
    """The runs of a storm at one URL, and of relays at the other, or the same, before it and in it."""
    with ExitStack() as stack:
        with processors(own, storm=True):
            storm = Loading(storm_words, stormed_url)
        stack.callback(storm.close)
        storm.wait("open")
        with processors(own, storm=False):
            relays = Loading(relay_words, relayed_url)
        stack.callback(relays.close)
        relays.wait("second")
        storm.go_on()
        storm.wait("reopened")
        calm = relays.end()
        return storm.end(), calm


def measured(options: argparse.Namespace, stormed_url: str, relayed_url: str, turn: int) -> Figures:
    """500 connections' 1,000 relays a second, before the storm and in it."""
    time.sleep(PAUSE if turn else 0)
    words = f"storm --connections {options.storm} --setup 300"
    words += f" --cut-rate {options.rate}" if options.rate else ""
    words += f" --away {options.away}" if options.away else ""
    storm, relays = stormed(words, RELAYS, stormed_url, relayed_url, options.own_processor)
    return turn_of(relays, storm)


def forms(options: argparse.Namespace, stack: ExitStack) -> dict[str, Turn]:
    """One, at one engine for all turns; with --apart a second one for the relays."""
    flags = f"--loops {-(-options.storm // ROOM)}"
    with processors(options.own_processor, storm=False):
        urls = [stack.enter_context(engine(f"{flags} {options.server}")).url]
        urls += [stack.enter_context(engine(flags)).url] if options.apart else []
    return {form_of(options): partial(measured, options, urls[0], urls[-1])}


def fault(found: Figures) -> str:
    """What went wrong, or nothing."""
    return "; ".join(filter(None, found.get("wrong", [])))


OPTIONS = {
    "storm": (200_000, "connections that are cut and opened again"),
    "rate": (0.0, "cut a second, instead of all at one moment"),
    "away": (0, "cut one after another, with so many away at a time"),
    "server": ("", "more options of the engine; with --apart of the storm's"),
    "apart": (False, "the relays go through another engine"),
    "own_processor": (False, "the storm's clients have a processor to themselves"),
}

if __name__ == "__main__":
    sys.exit(run(__doc__, OPTIONS, forms, turns=2, about=lambda o: {"connections": o.storm}, fault=fault))
