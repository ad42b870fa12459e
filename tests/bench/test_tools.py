"""What is pure in the benchmarks' tools: what they keep, and how turns become ratios and ends."""

import argparse
import json
import sys

import pytest

import hop
import machine
import micro
import results
import storm
from capacity import keepalive, kernel, structures

QUIET = {"p50": 100.0, "p90": 200.0, "p99": 400.0, "p999": 500.0, "max": 900.0, "count": 8, "curve": [[0, 1.0]]}
STORM = {**QUIET, "p99": 3000.0}
RUN = {
    "latency_us": QUIET,
    "storm": {"latency_us": STORM},
    "lost": 0, "gap": 0, "errors": {"corrupt": 0, "closed": 0}, "err": {},
}


@pytest.fixture
def described(monkeypatch):
    """The n-th file that is written is of day n and commit cn."""
    told = iter(range(1, 10))

    def description():
        day = next(told)
        return {"date": f"2031-02-{day:02}T00:00:00+00:00", "versions": {"commit": f"c{day}"}}

    monkeypatch.setattr(results, "description", description)
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
    assert results.command(typed) == shown


def test_a_kept_file_has_what_it_was_measured_on_and_with(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bench/hop.py", "--turns", "1", "--json", "x"])
    results.keep(tmp_path / "results" / "hop.json", {"hop": [hop.compared(20.0, 26.0, 4.0), {"ratio": 2.0}]}, of=5)
    found = json.loads((tmp_path / "results" / "hop.json").read_text(encoding="utf-8"))
    assert set(found) == {*machine.description(), "command", "forms"}
    kept = found["forms"]["hop"]
    assert found["command"] == kept["command"] == "python bench/hop.py --turns 1"
    assert (kept["of"], kept["ratio"], kept["across_us"]) == (5, [1.5, 2.0], [26.0, None])
    results.keep(None, {"hop": []})


def test_forms_are_kept_beside_each_other_each_with_its_call(tmp_path, described):
    file = tmp_path / "storm.json"
    for command, form, ratio in (("a", "one", 1), ("b", "other", 2), ("c", "one", 3)):
        described.setattr(sys, "argv", ["bench/storm.py", f"--{command}"])
        results.keep(file, {form: [{"ratio": ratio}]}, connections=5)
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
    turn = storm.turn_of(RUN)
    assert turn["ratio"] == 7.5
    assert [turn[f"quiet_{name}_us"] for name in storm.PERCENTILES] == [100.0, 200.0, 400.0, 500.0, 900.0]
    assert turn["storm_p99_us"] == 3000.0
    assert turn["lost"] == 0 and "wrong" not in turn
    assert storm.shown(turn).endswith("p99 3,000: 7.5")


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
    turn = storm.turn_of({**RUN, **fault})
    assert turn["wrong"] == told
    assert turn["lost"] == fault.get("lost", 0)


def test_a_load_generator_that_says_what_it_lost_is_heard():
    assert storm.understood(1, '{"lost": 3}', "") == {"lost": 3}
    with pytest.raises(SystemExit, match="load ended with 2: no such host"):
        storm.understood(2, "", "no such host")


def main_of_storm(monkeypatch, turns: list, *typed: str) -> int:
    monkeypatch.setattr(sys, "argv", ["bench/storm.py", *typed])
    monkeypatch.setattr(storm, "many_descriptors", lambda: None)
    monkeypatch.setattr(storm, "measured", lambda options: turns)
    return storm.main()


def test_a_storm_in_which_a_relay_was_lost_ends_with_1_and_is_kept(monkeypatch, tmp_path):
    fine, bad = storm.turn_of(RUN), storm.turn_of({**RUN, "lost": 1})
    file = tmp_path / "storm.json"
    assert main_of_storm(monkeypatch, [fine, fine], "--away", "16") == 0
    assert main_of_storm(monkeypatch, [fine, bad], "--away", "16", "--json", str(file)) == 1
    found = json.loads(file.read_text(encoding="utf-8"))["forms"]["--away 16"]
    assert (found["connections"], found["lost"]) == (200_000, [0, 1])


def test_a_hop_is_what_the_way_across_takes_longer_by_a_bare_wake():
    assert hop.compared(24.0, 33.0, 3.0)["ratio"] == 3.0


def test_pings_are_those_of_all_loops():
    name = "signal_engine_pings_sent_total"
    assert keepalive.counted(f'# TYPE {name} counter\n{name}{{loop="0"}} 3.0\n{name}{{loop="1"}} 4.0\nother 9.0\n') == 7


def test_a_ping_has_its_share_of_the_processors_time():
    assert keepalive.each(40_000, 42_000, 0.5) == {"pings": 40_000, "cpu_s": 0.5, "us": 12.5}
    for sent in (0, 37_900):
        with pytest.raises(SystemExit, match=f"{sent:,} pings were sent instead of 40,000: connections were lost"):
            keepalive.each(sent, 40_000, 0.5)


def kernel_turn(bare: float, engine: float, **more: float) -> dict:
    return {"bare": {"sockets": bare, "slab": 100.0, **more}, "engine": {"sockets": engine, "slab": 150.0, **more}}


def test_the_kernels_memory_is_compared_by_what_sockets_alone_fill():
    turns = [kernel_turn(7000.0, 7070.0), kernel_turn(7000.0, 7000.0)]
    assert [turn["ratio"] for turn in kernel.kept_turns(turns)] == [1.01, 1.0]
    assert kernel.kept_turns(turns)[0] == {
        "bare sockets": 7000.0, "bare slab": 100.0, "engine sockets": 7070.0, "engine slab": 150.0, "ratio": 1.01,
    }


def test_without_the_caches_it_is_compared_by_the_whole_slab():
    turns = [{who: {"slab": each["slab"]} for who, each in kernel_turn(1.0, 1.0).items()}]
    assert kernel.key_of(turns) == "slab"
    assert kernel.kept_turns(turns)[0]["ratio"] == 1.5


def test_crowds_are_told_by_connections_and_loops():
    assert structures.form_of(1_000_000, 56) == "--conns 1000000 --loops 56"


def test_every_case_of_the_micro_benchmarks_is_one_of_the_probe():
    found = micro.find([])
    assert {name.partition(", ")[0] for name in (bench.name for bench in found)} >= set(micro.CASES)
    assert [bench.name for bench in micro.find(["unmask"])] == ["unmask, 128 bytes", "unmask, 64 KiB"]
