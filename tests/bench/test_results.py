"""Files of results: written so that a diff shows them well, and what is read out of them."""

import json

import pytest

import contenders
import macro
import results
from contenders import BUILT_IN, Contender, parse_peer
from report.performance import apart, cpu_lines, curves, memory_lines, size_lines
from results import Spread
from runs import columns, cpu, idle, latency, room, scenarios

PARTS = ["--parts", "macro,memory,rooms"]


def test_what_is_written_is_read_again_with_a_line_for_each_contender(tmp_path):
    value = {"a": 1, "none": {}, "scenarios": {"relay": {"by": {"engine": {"x": [1, None], "y": ["µ"]}, "other": {}}}}}
    results.write(tmp_path / "deep" / "macro.json", value)
    text = (tmp_path / "deep" / "macro.json").read_text(encoding="utf-8")
    assert json.loads(text) == value == results.read("macro", tmp_path / "deep")
    assert '\n  "engine": {"x": [1, null], "y": ["µ"]},\n' in text
    assert results.read("rooms", tmp_path) == {}


def test_scales_are_in_the_order_of_connections(tmp_path):
    for n in (100_000, 20_000, 1_000_000):
        results.write(tmp_path / f"scale-{n}.json", {"scale": {"connections": n}})
    results.write(tmp_path / "scale-100000-ping-600.json", {"scale": {"connections": 100_000, "quiet": True}})
    found = results.read_scales(tmp_path)
    assert [r["scale"]["connections"] for r in found] == [20_000, 100_000, 100_000, 1_000_000]
    assert ["quiet" in r["scale"] for r in found] == [False, False, True, False]


def test_a_spread_says_one_number_where_there_is_one():
    assert str(Spread(1, 2, 3)) == "2.00 (1.00 to 3.00)"
    assert str(Spread(20, 20, 20)) == "20.0"
    assert str(Spread(20, 2000, 3000)) == "2,000 (20 to 3,000)"
    assert str(Spread(0.0031, 0.0032, 0.0042)) == "0.00320 (0.00310 to 0.00420)"
    assert str(Spread(0, 0, 0)) == "0"
    assert str(Spread(0.642, 0.678, 0.7, places=2)) == "0.68 (0.64 to 0.70)"
    assert results.spread([]) is None
    assert results.spread([None, 3.0, 1.0]) == Spread(1.0, 2.0, 3.0)
    with pytest.raises(ValueError, match="no turn has us"):
        results.middle({"us": [None]}, "us")


def test_a_sampled_ratio_is_of_all_turns_as_if_they_were_one():
    mine, theirs = columns(cpu(1, 5, 100), cpu(4, 5, 300), cpu(9, 9)), columns(cpu(2, 5, 300), cpu(4, 5, 100))
    found = results.pooled(mine, theirs, "user_us")
    assert found == Spread(0.5, (1300 / 400) / (1000 / 400), 1.0, places=2)
    assert results.pooled(mine, columns(cpu(0, 1), idle(None)), "user_us") is None
    assert results.pooled({}, theirs, "user_us") is None


def test_the_curve_is_that_of_the_median_run_and_kept_for_pairs_alone():
    found = columns(latency(9.0), latency(3.0), latency(5.0))
    assert found["curve"] == [[1.0, 1.0], [0.5, 2.0], [0.01, 5.0]]
    assert found["p99_us"] == [9.0, 3.0, 5.0]
    assert "curve" not in columns(cpu(1, 2))


def test_a_curve_ends_where_few_messages_are_above():
    assert [above for above, _ in columns(latency(3.0, count=499))["curve"]] == [1.0, 0.5]


def test_lines_are_medians_by_size():
    memory = scenarios(idle_10={"engine": [idle(5), idle(9), idle(6)], "uws": [idle(None)]}, relay={})
    scales = [{"scale": {"connections": n, "many": {"user_bytes": 7}}} for n in (4, 10)]
    assert memory_lines(memory, scales) == {"engine": [(4, 7.0), (10, 6.0)]}
    rooms = scenarios(room_11={"engine": [room(11, 100)]}, room_5={"engine": [room(5, 40)]})
    assert size_lines(rooms, "room", "room_ms") == {"engine": [(5, 200.0), (11, 200.0)]}


def test_a_turn_that_lacks_a_figure_has_no_ratio_and_the_others_have():
    mine, theirs = columns(idle(2), idle(None), idle(6), idle(1)), columns(idle(4), idle(1), idle(2), idle(0))
    assert results.ratios(mine, theirs, "bytes") == [0.5, 3.0]
    assert results.ratios(mine, {}, "bytes") == []


def test_a_room_in_which_no_message_reached_all_has_no_time():
    assert macro.to_last_member(room(11, 9)) is None


def test_cpu_is_user_and_system_the_least_first():
    kept = scenarios(relay={"engine": [cpu(1, 9)], "uws": [cpu(2, 5)], "other": [idle(1)]})
    assert cpu_lines(kept, "relay") == [("uws", 2, 3), ("engine", 1, 8)]
    assert cpu_lines(kept, "cross") == []
    assert curves(kept, "relay") == {}


@pytest.mark.parametrize(
    ("places", "moved"),
    [
        ([0.1, 0.9], [0.1, 0.9]),
        ([0.5, 0.5], [0.45, 0.55]),
        ([0.9, 0.52, 0.5], [0.9, 0.56, 0.46]),
        ([0.5, 0.55, 0.62], [0.4566666667, 0.5566666667, 0.6566666667]),
    ],
)
def test_labels_are_moved_apart(places, moved):
    assert apart(places, 0.1) == pytest.approx(moved)


@pytest.mark.parametrize("contender", [*BUILT_IN, parse_peer("uws=/somewhere/relay {port}")], ids=lambda c: c.name)
def test_a_command_is_shown_without_a_place_of_this_machine(contender):
    assert str(contenders.HERE.parent) not in contender.shown()
    assert str(contenders.VENV_BIN) not in contender.shown()
    assert "/somewhere" not in contender.shown()


def test_a_peer_named_by_hand_is_shown_as_built_locally():
    assert parse_peer("uws=/somewhere/relay {port}").shown() == "built locally"
    assert results.label("uws") == "uWebSockets (C++)"
    assert results.label("mine") == "mine"


def test_who_lacks_descriptors_does_not_hold_and_the_engine_gets_loops(monkeypatch):
    monkeypatch.setattr(contenders.resource, "getrlimit", lambda _which: (1024, 20_000))
    other = Contender("other", "server {port}")
    assert macro.able([contenders.ENGINE, other], 17_500)[1] == other
    (engine,) = macro.able([contenders.ENGINE, other], 100_000)
    assert "--loops 6 " in engine.command


def test_every_part_has_steps(monkeypatch):
    monkeypatch.setattr(contenders.resource, "getrlimit", lambda _which: (1024, 20_000))
    everyone = [*BUILT_IN, parse_peer("uws=/somewhere/relay {port}")]
    steps = list(macro.steps_of(macro.parse_options(PARTS), everyone))
    assert {s.scenario.part for s in steps} == set(macro.PARTS)
    for scenario in ("room-10", "room-10000"):
        (step,) = [s for s in steps if s.scenario.name == scenario]
        assert [c.name for c in step.contenders] == [c.name for c in everyone]


def test_the_engine_has_its_turn_with_two_loops_after_that_with_one(monkeypatch):
    monkeypatch.setattr(contenders.resource, "getrlimit", lambda _which: (1024, 20_000))
    steps = list(macro.steps_of(macro.parse_options(["--parts", "macro"]), list(BUILT_IN)))
    (step,) = [s for s in steps if s.scenario.name == "fanout-10k"]
    assert [c.name for c in step.contenders][:3] == ["engine", "engine-2", "nats-ws"]
    assert [" --loops 2 " in c.command for c in step.contenders] == [False, True, False, False, False, False]
    others = [s for s in steps if s.scenario.name != "fanout-10k"]
    assert "engine-2" not in [c.name for s in others for c in s.contenders]
    assert macro.on_two_loops([parse_peer("engine=/somewhere/server {port}")])[1:] == []


def test_the_command_that_is_kept_has_peers_without_their_place():
    options = macro.parse_options([*PARTS, "--runs", "2", "--peer", "uws=/somewhere/relay {port}"])
    shown = macro.command_shown(options, options.contenders)
    assert shown == "make bench-performance RUNS=2 SECONDS=15 ARGS=\"--peer 'uws=… {port}'\""


def test_the_command_that_is_kept_says_what_was_measured_only():
    words = ["--peer", "uws=/somewhere/relay {port}", "--peer-version", "uws=uWebSockets 1, g++ 12"]
    options = macro.parse_options([*words, "--parts", "macro,rooms", "--only", "engine,uws"])
    shown = macro.command_shown(options, options.contenders)
    assert shown.partition(" ARGS=")[2] == (
        "\"--peer 'uws=… {port}' --peer-version 'uws=uWebSockets 1, g++ 12' --parts macro,rooms --only engine,uws\""
    )
    assert macro.head(options, options.contenders)["contenders"] == {
        "engine": contenders.ENGINE.shown(),
        "engine-2": contenders.ENGINE.with_loops(2).shown(),
        "uws": "built locally: uWebSockets 1, g++ 12",
    }


def test_what_was_measured_is_described_before_the_first_file_is_written(monkeypatch, tmp_path):
    told = []

    def described() -> dict:
        told.append(sorted(tmp_path.iterdir()))
        return {"date": "now"}

    monkeypatch.setattr(macro, "description", described)
    monkeypatch.setattr(macro, "run_step", lambda _step, _runs: {"engine": [{"cpu_us": 1.0}]})
    options = macro.parse_options([*PARTS, "--results", str(tmp_path), "--runs", "1"])
    assert macro.make(options, options.contenders)
    assert told == [[]]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["macro.json", "memory.json", "rooms.json"]
