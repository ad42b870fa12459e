"""The load generator: it builds without a warning, its own tests pass, and every mode of it measures a real engine and
says what the benchmarks' scripts read."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

import kit
import load
import macro
import scale
import servers
import storm
from bench_tools import BUILT, built, environment, loaded
from peers import BarePeer, ledgers_hold
from wire import until

pytestmark = pytest.mark.timeout(300)  # the first test waits for the build

Run = dict[str, Any]
PING_INTERVAL = 0.1
QUIET = 0.8
LATENCY = ("count", "mean", "p50", "p90", "p99", "p999", "max", "curve")

# Each mode, some of them twice: within a thread and across threads.
MODES = {
    "idle": "idle --connections 20 --verify",
    "relay": "relay --connections 20 --threads 2",
    "random": "random --connections 20 --threads 2 --payload 4000",
    "pair": "pair",
    "pair-spin": "pair --spin",
    "echo": "echo --connections 10",
    "room": "room --rooms 2 --members 5",
    "room-over-threads": "room --rooms 1 --members 10 --threads 3",
    "churn": "churn --connections 5",
    "mix": f"mix --connections 40 --threads 2 --rate 500 --rooms 2 --members 5 --room-rate 50 --quiet {QUIET} --verify",
}
STORMS = {  # with what each takes at least, in seconds
    "storm --connections 20 --cut-rate 50 --threads 2": 0.3,
    "storm --connections 20 --away 5": 0.0,
    "storm --connections 20": 0.0,
}
CROSSING = ("relay", "pair", "room", "mix")  # that are run over two nodes, too


@pytest.fixture(scope="module")
def tool() -> str:
    """With sanitizers, so that what is wrong with its memory ends it."""
    built("load", f"{BUILT}/load-asan")
    return "load-asan"


@pytest.fixture(scope="module")
def engine() -> Iterator[kit.Engine]:
    with kit.engine(loops=2, ping_interval=PING_INTERVAL) as running:
        yield running


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[kit.Engine]]:
    """Two that reach each other."""
    with kit.nats() as server, kit.engine(nats=server.url, loops=1) as one, kit.engine(nats=server.url, loops=1) as two:
        for a, b in ((one, two), (two, one)):
            with BarePeer(a.port) as sender, BarePeer(b.port) as receiver:
                until(lambda to=receiver: sender.ask(f"TO {to.address}", "there?") == "ok", "the nodes meet")  # type: ignore[misc]
        yield [one, two]


def mode_of(words: str) -> str:
    return words.split()[0]


def read(run: Run, *path: str) -> Any:
    """KeyError where the run does not have it."""
    value: Any = run
    for key in path:
        value = value[key]
    return value


def sound(run: Run, words: str) -> None:
    """Something was measured, nothing was lost, and every figure of this mode that macro.py shows is there."""
    mode = mode_of(words)
    assert run["mode"] == mode
    assert load.trouble(run) == "" and run["lost"] == 0
    assert run["seconds"] > 0
    assert (run["verified"] if mode == "idle" else run["delivered"]) > 0
    assert mode == "idle" or run["per_second"] > 0
    assert mode == "idle" or run["latency_us"]["count"] > 0
    assert all(name in run["latency_us"] for name in LATENCY)
    if mode != "churn":
        assert run["opened"]["seconds"] >= 0 and run["opened"]["per_second"] > 0
    for name in shown_of(mode):
        read(run, *macro.PATHS[name])
    if mode not in ("idle", "churn"):
        points = macro.curve(run)
        assert points and points == sorted(points, reverse=True)
        assert ("curve" in macro.summary(run)) == (mode == "pair")


def shown_of(mode: str) -> set[str]:
    return {name for s in macro.SCENARIOS if mode_of(s.load) == mode for name in s.shown}


def test_it_builds_without_a_warning_and_its_own_tests_pass() -> None:
    built("load", "check")


def test_every_mode_is_run_here(tool: str) -> None:
    told = subprocess.run([BUILT / tool, "--help"], capture_output=True, text=True, env=environment(), check=True)
    modes = told.stdout.partition("\nmodes\n")[2].partition("\noptions")[0]
    names = set(re.findall(r"^  ([a-z]+) ", modes, re.MULTILINE))
    run = {mode_of(words) for words in (*MODES.values(), *STORMS)}
    assert names == run >= {mode_of(s.load) for s in macro.SCENARIOS}


def timed_room(run: Run) -> None:
    took = macro.to_last_member(run)
    assert took is not None and 0 < took < run["seconds"] * 1e3


def scalable(run: Run) -> None:
    """A mix has what the script of very many connections reads."""
    assert run["quiet"]["to"] - run["quiet"]["from"] > QUIET
    assert run["quiet"]["pings"] > 0 and run["pings"] >= run["quiet"]["pings"] + run["pings_measured"]
    assert run["room_latency_us"]["count"] > 0 and all(name in run["room_latency_us"] for name in LATENCY)
    assert run["verified"] == run["connections"] == 40
    kernel = [scale.kernel_kb(meminfo) for meminfo in run["meminfo"]]
    assert all(kb["counted"] > 0 and kb["all_but_user"] > 0 for kb in kernel)
    figures = scale.summary(run, *kernel)
    assert figures["pings_per_s"] > 0 and figures["relay_p99_us"] > 0 and figures["room_p99_us"] > 0
    assert figures["opened_per_s"] == run["opened"]["per_second"]
    assert {*scale.ALONE, *scale.BESIDE} <= set(figures) and "wrong" not in figures


MORE = {
    "room": timed_room,
    "room-over-threads": timed_room,
    "mix": scalable,
}


@pytest.mark.parametrize("name", MODES)
def test_a_mode_on_one_node(tool: str, engine: kit.Engine, name: str) -> None:
    run = loaded(tool, MODES[name], [engine.url], [engine.pid])
    sound(run, MODES[name])
    if name in MORE:
        MORE[name](run)
    of_engine, of_all = run["servers"][0], run["all_servers"]
    assert of_engine["pid"] == engine.pid and run["targets"] == 1
    assert {**of_engine, **of_all} == of_engine, "all servers are this one"
    assert of_all["user_s"] >= 0 and of_all["system_s"] >= 0
    until(lambda: engine.stats()["total"]["in_flight"] == 0, "the engine has written or dropped all")
    ledgers_hold(engine.stats()["total"])


def test_modes_across_two_nodes(tool: str, nodes: list[kit.Engine]) -> None:
    for name in CROSSING:
        before = [node.stats()["total"]["nats_in"] for node in nodes]
        run = loaded(tool, MODES[name], [node.url for node in nodes], [node.pid for node in nodes])
        sound(run, MODES[name])
        assert run["targets"] == 2 and len(run["servers"]) == 2
        assert run["all_servers"]["user_s"] == pytest.approx(sum(of["user_s"] for of in run["servers"]))
        assert all(node.stats()["total"]["nats_in"] > n for node, n in zip(nodes, before, strict=True)), name


@pytest.mark.parametrize("words", STORMS)
def test_a_storm_beside_relays(tool: str, engine: kit.Engine, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At another engine, which the relays' does not notice; the relays have a latency of the time before and in it."""
    monkeypatch.setattr(storm, "LOAD", BUILT / tool)
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    with kit.engine(loops=1) as stormed:
        before = engine.stats()["total"]["opened"]
        found, relays = storm.stormed(words, "relay --connections 10 --rate 500 --seconds 0.2 --second",
                                      stormed.url, engine.url, own=False)
        assert engine.stats()["total"]["opened"] - before == relays["connections"] == 10
        assert stormed.stats()["total"]["opened"] == 40
    assert found["ready"] == found["connections"] == found["reopened"] == 20 and found["seconds"] > STORMS[words]
    assert load.trouble(relays) == load.trouble(found) == "" and not load.incomplete(found)
    assert relays["latency_us"]["count"] > 50 and (relays["second_latency_us"]["count"] > 0 or not STORMS[words])
    for latency in (relays["latency_us"], relays["second_latency_us"]):
        assert all(name in latency for name in LATENCY)


def test_as_it_is_without_sanitizers(tool: str, engine: kit.Engine) -> None:
    plain, sanitized = (loaded(name, MODES["relay"], [engine.url], [engine.pid]) for name in ("load", tool))
    sound(plain, MODES["relay"])
    assert plain.keys() == sanitized.keys()


def test_percentiles_are_of_the_values() -> None:
    hundred = " ".join(f"{i}:1" for i in range(1, 101))
    found = load.Latencies(f"sum=5050 max=100 {hundred}")
    assert [found.percentile(share) for share in (0.5, 0.01, 1)] == [50, 1, 100]
    found = load.Latencies(f"sum=1005050 max=1000000 {hundred} 1003520:1")
    assert found.count == 101 and found.percentile(1) == 1000000
    none = load.Latencies("sum=0 max=0")
    assert none.percentile(0.5) == 0 and none.curve() == [] and none.figures()["mean"] == 0


def test_a_curve_is_ascending_and_each_point_is_its_percentile() -> None:
    found = load.Latencies(f"sum=1 max={100000**2} " + " ".join(f"{i * i}:1" for i in range(1, 100001)))
    curve = found.curve()
    assert 60 < len(curve) < 160
    assert curve[0] == (0, 1) and curve[4] == (0.5, 50000**2)
    assert curve[-1] == (1, 100000**2) and 0.99998 < curve[-2][0] < 1
    for one, other in pairwise(curve):
        assert other[0] > one[0] and other[1] >= one[1]


def test_lost_is_what_was_neither_received_nor_refused_nor_reported(tool: str, engine: kit.Engine) -> None:
    command = [BUILT / tool, "relay", "--connections", "2", "--seconds", "0.1", "--warmup", "0", engine.url]
    text = subprocess.run(command, capture_output=True, text=True, env=environment(), check=True).stdout
    counts = {"expected": 100, "delivered": 80, "verified": 4, "gap": 3, "err.bad-request": 2, "err.other": 1}
    begin, final, rest = text.partition("sample final ")
    for name, count in counts.items():
        rest = re.sub(rf"\b{re.escape(name)}=\d+", f"{name}={count}", rest, count=1)
    run = load.parse(begin + final + rest)
    assert run["lost"] == 10
    assert load.trouble(run) == "bad-request 2, other 1, lost 10, gap 3"
    with pytest.raises(servers.BenchError, match="nothing was measured"):
        load.parse(begin)
    quiet = load.parse(re.sub(r"expected=\d+", "expected=0", text))
    assert quiet["lost"] == 0


def test_a_server_that_is_gone_has_no_figures(tool: str, engine: kit.Engine) -> None:
    run = loaded(tool, MODES["relay"], [engine.url], [engine.pid, 1 << 30])
    of_engine, of_none = run["servers"]
    assert of_engine["user_s"] is not None and of_none["user_s"] is None
    assert run["all_servers"]["cpu_us_per_delivery"] is None and run["all_servers"]["bytes_per_connection"] is None
