"""What is pure in the benchmarks' script: who is measured, how figures become ratios, what a result tells of."""

import argparse
import gzip
import re
import shutil
import subprocess
from dataclasses import replace

import pytest

import contenders
import load
import machine
import macro
from contenders import BUILT_IN, Contender, chosen, parse_names, parse_peer
from results import columns


def named(*names: str) -> list[Contender]:
    return [Contender(name, "server {port}") for name in names]


def test_a_peer_is_a_name_and_a_command_with_a_port():
    peer = parse_peer("other=/opt/server --port={port}")
    assert (peer.name, peer.command, peer.needs_nats) == ("other", "/opt/server --port={port}", False)
    assert parse_peer("other=server {port} {nats}").needs_nats


@pytest.mark.parametrize("text", ["other", "other=", "=server {port}", "other=server 9001", ""])
def test_a_peer_without_name_or_port_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError):
        parse_peer(text)


def test_names_are_known_and_at_least_one():
    assert parse_names("a,c", "abc", "letter") == ["a", "c"]
    with pytest.raises(ValueError, match="no such letter: x, y"):
        parse_names("a,x,y", "abc", "letter")
    with pytest.raises(ValueError, match="no letter is named"):
        parse_names(",", "abc", "letter")


def test_only_keeps_the_order_because_ratios_are_to_the_first():
    assert [c.name for c in chosen(named("engine", "b", "c"), "c,engine")] == ["engine", "c"]
    assert len(chosen(named("engine", "b"), "")) == 2
    with pytest.raises(ValueError, match="no such contender: nobody"):
        chosen(named("engine"), "nobody")


def test_the_engine_is_the_first_of_those_built_in():
    assert [c.name for c in BUILT_IN] == ["engine", "nats-ws", "goproxy", "socketify", "picows"]


@pytest.mark.parametrize("contender", BUILT_IN, ids=lambda c: c.name)
def test_every_command_has_its_port_and_only_places_that_are_filled(contender):
    filled = contender.filled(port=4711, nats="nats://127.0.0.1:4222", node="n0")
    assert "4711" in filled
    assert "{" not in filled


def test_only_those_that_meet_over_nats_are_more_nodes_than_one():
    one = Contender("one", "server {port}")
    assert one.fits(1)
    assert not one.fits(2)
    assert Contender("two", "server {port} {nats}").fits(2)


@pytest.mark.parametrize("contender", BUILT_IN, ids=lambda c: c.name)
def test_every_contender_runs_all_on_one_node_and_those_that_join_over_nats_on_two(contender):
    fit = {s.name for s in macro.SCENARIOS if contender.fits(s.nodes)}
    assert fit >= {s.name for s in macro.SCENARIOS if s.nodes == 1}
    assert ("cross" in fit) == ("cross-pair" in fit) == (contender.name in ("engine", "goproxy"))


def test_who_is_absent_is_told_of_and_left_out(capsys):
    here, away = named("here", "away")
    away = replace(away, modules="no_such_module_anywhere")
    assert macro.present([here, away]) == [here]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("away is left out: ModuleNotFoundError: No module named 'no_such_module_anywhere' (pip")


def test_what_can_be_imported_is_present():
    assert contenders.no_module("json, socket") == ""


def test_a_figure_is_found_by_its_path_or_there_is_none():
    run = {"all_servers": {"user_us_per_delivery": 1.5, "bytes_per_connection": None}, "per_second": 7}
    assert macro.summary(run) == {"user_us": 1.5, "per_second": 7.0}
    assert columns([macro.summary(run), {}])["user_us"] == [1.5, None]


def test_every_figure_that_is_printed_is_one_of_a_run():
    assert {name for scenario in macro.SCENARIOS for name in scenario.shown} <= set(macro.PATHS)


def test_only_what_went_wrong_is_trouble():
    clean = {"errors": {"corrupt": 0}, "err": {}, "lost": 0, "gap": 0}
    assert load.trouble(clean) == ""
    assert load.trouble({**clean, "err": {"rate": 3}, "lost": 2}) == "rate 3, lost 2"


def test_ratios_are_printed_to_the_first_contender(capsys):
    def runs(*values: float) -> list[dict]:
        return [{"per_second": value} for value in values]

    scenario = macro.Scenario("s", "relay", ("per_second", "user_us"))
    macro.print_scenario(scenario, {"engine": runs(200, 300), "other": runs(100, 100)})
    said = capsys.readouterr().out
    assert "engine/other 2.50 (2.00 to 3.00)" in said
    assert said.count("engine/") == 1


def test_a_ratio_is_of_one_turn_where_another_has_no_figure(capsys):
    def runs(*values: float | None) -> list[dict]:
        return [{"bytes": value} for value in values]

    scenario = macro.Scenario("s", "idle", ("bytes",))
    macro.print_scenario(scenario, {"engine": runs(None, 300, 100), "other": runs(400, 100, None)})
    said = capsys.readouterr().out
    assert "engine/other 3.00" in said


def test_nobody_takes_the_place_of_the_engine_where_it_has_no_runs(capsys):
    scenario = macro.Scenario("s", "relay", ("per_second",))
    macro.print_scenario(scenario, {"engine": [], "a": [{"per_second": 2}], "b": [{"per_second": 4}]})
    said = capsys.readouterr().out
    assert "a            2.00" in said and "/" not in said.partition("  per_second\n")[2]


def test_who_fails_keeps_the_runs_that_it_had_and_is_left_out_of_the_turns_that_follow(monkeypatch, capsys):
    asked = []

    def measured(contender: Contender, _scenario: object, _seconds: float) -> dict:
        asked.append(contender.name)
        if asked.count("engine") == 2 and contender.name == "engine":
            raise macro.BenchError("it ended")
        return {"number": len(asked)}

    monkeypatch.setattr(macro, "measure", measured)
    step = macro.Step(macro.Scenario("s", "relay", ()), tuple(named("engine", "other")), 1.0)
    found = macro.run_step(step, 3)
    assert asked == ["engine", "other", "engine", "other", "other"]
    assert {name: [run["number"] for run in runs] for name, runs in found.items()} == {
        "engine": [1],
        "other": [2, 4, 5],
    }
    assert "engine is left out of the rest of s: it ended" in capsys.readouterr().err


def test_a_result_tells_what_it_was_measured_on():
    about = machine.description()
    assert set(about) == {"date", "machine", "versions"}
    assert about["machine"]["kernel"] and about["machine"]["cores"] >= 1
    assert about["machine"]["memory"].endswith("kB")
    assert {"python", "signal-engine-ws"} <= set(about["versions"])
    if shutil.which("cc"):
        assert re.fullmatch(r"\d[\d.]*", about["versions"]["cc"])


def test_a_commit_is_dirty_where_something_that_takes_part_was_changed(tmp_path):
    def git(*words: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    files = [tmp_path / name for name in ("bench/results/macro.json", "docs/performance.md", "core.c")]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("as it was\n")
    git("init")
    git("add", ".")
    git("commit", "-m", "one")
    clean = machine.commit(tmp_path)
    assert re.fullmatch(r"[0-9a-f]{7,}", clean)
    (tmp_path / "new.json").touch()
    for file in files[:2]:
        file.write_text("measured\n")
    assert machine.commit(tmp_path / "bench") == clean
    files[2].write_text("changed\n")
    assert machine.commit(tmp_path / "bench") == f"{clean}-dirty"


def test_how_often_the_kernel_looks_is_read_where_it_tells(tmp_path):
    config = tmp_path / "config.gz"
    assert machine.ticks(config) is None
    config.write_bytes(gzip.compress(b"CONFIG_HZ_250=y\nCONFIG_HZ=250\n"))
    assert machine.ticks(config) == 250
    config.write_bytes(gzip.compress(b"# nothing\n"))
    assert machine.ticks(config) is None
    config.write_bytes(b"not compressed")
    assert machine.ticks(config) is None


def test_who_is_named_has_his_turn_right_after_the_engine():
    given = argparse.Namespace(peer=[parse_peer("other=server {port}")], peer_version=[])
    assert [c.name for c in macro.everyone(given)][:3] == ["engine", "other", BUILT_IN[1].name]


def test_what_is_told_of_a_peer_is_shown_beside_its_results():
    peer = parse_peer("uws=/somewhere/relay {port}")
    versions = [contenders.parse_peer_version("uws=uWebSockets 1, -O3 -march=native")]
    assert contenders.told([*named("engine"), peer], versions)[1].shown() == (
        "built locally: uWebSockets 1, -O3 -march=native"
    )
    with pytest.raises(ValueError, match="no --peer is named engine"):
        contenders.told([*named("engine"), peer], [("engine", "x")])


@pytest.mark.parametrize("text", ["uws", "=1", "uws= ", "uws=/opt/uws", "uws='1'", "uws=a|b"])
def test_what_can_not_be_told_of_a_peer_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError):
        contenders.parse_peer_version(text)


def test_a_field_of_proc_is_found_by_its_whole_name(tmp_path):
    file = tmp_path / "cpuinfo"
    file.write_text("model name\t: Some CPU : fast\nmodel\t\t: 85\nmodel name\t: other\n")
    assert machine.first_field(str(file), "model") == "85"
    assert machine.first_field(str(file), "model name") == "Some CPU : fast"
    assert machine.first_field(str(file), "flags") == ""
    assert machine.first_field(str(tmp_path / "none"), "flags") == ""
