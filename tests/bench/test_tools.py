"""What is pure in the benchmarks' tools: what they keep, and how turns become ratios and ends."""

import argparse
import json
import sys

import pytest

import fairness
import hop
import machine
import micro
import presence
import servers
import storm
import turns
from capacity import keepalive, kernel, structures

QUIET = {"p50": 100.0, "p90": 200.0, "p99": 400.0, "p999": 500.0, "max": 900.0, "count": 8, "curve": [[0, 1.0]]}
STORM = {**QUIET, "p99": 3000.0}
RUN = {
    "mode": "relay", "connections": 500, "verify": 0,
    "latency_us": QUIET,
    "second_latency_us": STORM,
    "lost": 0, "gap": 0, "errors": {"corrupt": 0, "closed": 0}, "err": {},
}
STORMED = {**RUN, "mode": "storm", "ready": 500, "reopened": 500}


@pytest.fixture
def described(monkeypatch):
    """The n-th file that is written is of day n and commit cn."""
    told = iter(range(1, 10))

    def description():
        day = next(told)
        return {"date": f"2031-02-{day:02}T00:00:00+00:00", "versions": {"commit": f"c{day}"}}

    monkeypatch.setattr(turns, "description", description)
    return monkeypatch


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        (["--turns", "3", "--json", "/tmp/a.json"], "python bench/storm.py --turns 3"),
        (["--json=/tmp/a.json", "--apart"], "python bench/storm.py --apart"),
        (["--server", "--accept-yield off"], "python bench/storm.py --server '--accept-yield off'"),
        (["--server", "/some/where/nats-server"], "python bench/storm.py --server '…/nats-server'"),
    ],
)
def test_a_command_is_kept_without_this_machines_places(monkeypatch, typed, shown):
    monkeypatch.setattr(sys, "argv", ["/some/where/bench/storm.py", *typed])
    assert turns.command() == shown


def test_a_kept_file_has_what_it_was_measured_on_and_with(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bench/hop.py", "--turns", "1", "--json", "x"])
    turns.keep(tmp_path / "results" / "hop.json", {"hop": [hop.compared(20.0, 26.0, 4.0), {"ratio": 2.0}]}, of=5)
    found = json.loads((tmp_path / "results" / "hop.json").read_text(encoding="utf-8"))
    assert set(found) == {*machine.description(), "command", "forms"}
    kept = found["forms"]["hop"]
    assert found["command"] == kept["command"] == "python bench/hop.py --turns 1"
    assert (kept["of"], kept["ratio"], kept["across_us"]) == (5, [1.5, 2.0], [26.0, None])
    turns.keep(None, {"hop": []})


def test_forms_are_kept_beside_each_other_each_with_its_call(tmp_path, described):
    file = tmp_path / "storm.json"
    for command, form, ratio in (("a", "one", 1), ("b", "other", 2), ("c", "one", 3)):
        described.setattr(sys, "argv", ["bench/storm.py", f"--{command}"])
        turns.keep(file, {form: [{"ratio": ratio}]}, connections=5)
    found = json.loads(file.read_text(encoding="utf-8"))
    assert found["command"] == "python bench/storm.py --c"
    calls = {form: (kept["date"][:10], kept["commit"], kept["ratio"]) for form, kept in found["forms"].items()}
    assert calls == {"one": ("2031-02-03", "c3", [3]), "other": ("2031-02-02", "c2", [2])}


def storm_options(**given) -> argparse.Namespace:
    plain = {"storm": 9, "rate": 0, "away": 0, "own_processor": False, "server": "", "apart": False}
    return argparse.Namespace(**{**plain, **given})


def test_forms_of_the_storm_are_what_is_typed():
    assert storm.form_of(storm_options()) == "all at one moment"
    assert storm.form_of(storm_options(away=4096)) == "--away 4096"
    served = storm_options(rate=3000.0, server="--accept-yield off")
    assert storm.form_of(served) == "--rate 3000 --server '--accept-yield off'"
    assert storm.form_of(storm_options(own_processor=True, apart=True)) == "--own-processor --apart"


def test_a_storm_has_p99_by_the_quiets_and_no_curves():
    turn = storm.turn_of(RUN, STORMED)
    assert turn["ratio"] == 7.5
    assert [turn[f"quiet_{name}_us"] for name in storm.PERCENTILES] == [100.0, 200.0, 400.0, 500.0, 900.0]
    assert turn["storm_p99_us"] == 3000.0
    assert turn["lost"] == 0 and "wrong" not in turn


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ({"lost": 3}, "lost 3"),
        ({"gap": 2}, "gap 2"),
        ({"errors": {"corrupt": 0, "closed": 4}}, "closed 4"),
        ({"err": {"no-such-peer": 1}}, "no-such-peer 1"),
    ],
)
def test_whatever_went_wrong_in_a_storm_is_told(fault, told):
    turn = storm.turn_of({**RUN, **fault}, STORMED)
    assert turn["wrong"] == told
    assert turn["lost"] == fault.get("lost", 0)


def test_a_storm_that_is_not_over_is_told():
    assert storm.turn_of(RUN, {**STORMED, "reopened": 499})["wrong"] == "a connection is not open"
    closed = {**STORMED, "ready": 499, "errors": {"closed": 1}}
    assert storm.turn_of(RUN, closed)["wrong"] == "closed 1, a connection is not open"


def test_a_load_generator_that_ends_early_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(storm, "LOAD", tmp_path / "load")
    storm.LOAD.write_text("#!/bin/sh\necho options; exit 2\n")
    storm.LOAD.chmod(0o755)
    with pytest.raises(servers.BenchError, match="load ended with 2 before 'open'"):
        storm.Loading("storm", "ws://127.0.0.1:1/").wait("open")


def ran(monkeypatch, tool, found: list, *typed: str, **more) -> int:
    """What a tool's command returns, where its one form has these turns."""
    monkeypatch.setattr(sys, "argv", ["bench/storm.py", *typed])
    monkeypatch.setattr(turns, "many_descriptors", lambda: None)
    form = {"form": lambda number: found[number]}
    return turns.run("doc", tool.OPTIONS, lambda options, _: form, turns=len(found), fault=tool.fault, **more)


def test_a_storm_in_which_a_relay_was_lost_ends_with_1_and_is_kept(monkeypatch, tmp_path, capsys):
    fine, bad = storm.turn_of(RUN, STORMED), storm.turn_of({**RUN, "lost": 1}, STORMED)
    file = tmp_path / "storm.json"
    assert ran(monkeypatch, storm, [fine, fine], "--away", "16") == 0
    about = {"about": lambda options: {"connections": options.storm}}
    assert ran(monkeypatch, storm, [fine, bad], "--away", "16", "--json", str(file), **about) == 1
    assert "form: lost 1" in capsys.readouterr().err
    found = json.loads(file.read_text(encoding="utf-8"))["forms"]["form"]
    assert (found["connections"], found["lost"]) == (200_000, [0, 1])


def test_a_hop_is_what_the_way_across_takes_longer_by_a_bare_wake():
    assert hop.compared(24.0, 33.0, 3.0)["ratio"] == 3.0


def test_a_ping_has_its_share_of_the_processors_time():
    assert keepalive.each(40_000, 42_000, 0.5) == {"pings": 40_000, "cpu_s": 0.5, "us": 12.5}
    for sent in (0, 37_900):
        told = f"{sent:,} pings were sent instead of 40,000: connections were lost"
        with pytest.raises(servers.BenchError, match=told):
            keepalive.each(sent, 40_000, 0.5)


def kernel_turn(bare: float, engine: float, **more: float) -> dict:
    return {"bare": {"sockets": bare, "slab": 100.0, **more}, "engine": {"sockets": engine, "slab": 150.0, **more}}


def test_the_kernels_memory_is_compared_by_what_sockets_alone_fill():
    assert kernel.compared(kernel_turn(7000.0, 7000.0), "sockets")["ratio"] == 1.0
    assert kernel.compared(kernel_turn(7000.0, 7070.0), "sockets") == {
        "bare sockets": 7000.0, "bare slab": 100.0, "engine sockets": 7070.0, "engine slab": 150.0, "ratio": 1.01,
    }


def test_without_the_caches_it_is_compared_by_the_whole_slab():
    found = {who: {"slab": each["slab"]} for who, each in kernel_turn(1.0, 1.0).items()}
    assert kernel.compared(found, "slab")["ratio"] == 1.5


def test_crowds_are_told_by_connections_and_loops():
    assert structures.form_of(1_000_000, 56) == "--conns 1000000 --loops 56"


def test_every_case_of_the_micro_benchmarks_is_one_of_the_probe():
    assert {name.partition(", ")[0] for name in micro.find()} >= set(micro.CASES)
    assert [name for name in micro.find() if "unmask" in name] == ["unmask, 128 bytes", "unmask, 64 KiB"]


def test_forms_are_measured_in_turn_and_may_be_chosen(monkeypatch, capsys):
    monkeypatch.setattr(turns, "many_descriptors", lambda: None)
    asked = []

    def forms(options, _stack):
        return {name: lambda n, name=name: asked.append((name, n)) or {"x": options.size} for name in ("a", "b")}

    def ran(*typed: str) -> int:
        return turns.run("doc", {"size": (7, "")}, forms, turns=2, choice="kinds", arguments=list(typed))

    assert ran() == 0
    assert asked == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert ran("--kinds", "b", "--turns", "1", "--size", "9") == 0
    assert asked[4:] == [("b", 0)]
    assert capsys.readouterr().out.splitlines()[-1] == "b: x 9.00"
    with pytest.raises(SystemExit):
        ran("--kinds", "c")


def test_a_flood_has_its_bar_by_its_p99_or_by_the_other_engines():
    def fault(p99: float, ratio: float, lost: int = 0) -> str:
        return fairness.fault({"flood near p99": [p99, 1.0, 1e6], "ratio": [ratio, 0.0, 99.0], "lost": [lost]})

    assert fault(3000.0, 9.0) == fault(9000.0, 1.5) == ""
    assert fault(3001.0, 1.6) == "missed: median p99 3,001 µs, 1.60 times the other engine's, 0 lost"
    assert fault(1.0, 1.0, lost=2).endswith("2 lost")


def test_only_a_watcher_that_reads_must_not_miss_anything():
    found = presence.Storm(1.0, 0.5, 0.1, 0.2, 3, 4, [7, 0, 0], 9).figures(slow=1)
    assert (found["missed by those that read"], found["messages missed by a listener"]) == (0, 7)
    assert presence.fault({"missed by those that read": [0, 0]}) == ""
    assert presence.fault({"missed by those that read": [0, 7]}) != ""
