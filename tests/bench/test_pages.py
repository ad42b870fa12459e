"""Tables of docs/performance.md and docs/sizing.md are what the kept results make; nothing is said of their text."""

import re

import pytest

import macro
import results
import scale
from report import tables
from report.__main__ import PAGES
from report.performance import CPU_TABLES, LATENCY_TABLES
from report.performance import tables as made
from runs import cpu, idle, latency, room, scaled, scenarios

ABOUT = {
    "date": "2031-02-03T04:05:06+00:00",
    "machine": {"architecture": "x86_64", "cpu": "Some CPU", "cores": 2, "memory": "2097152 kB", "kernel": "6.1"},
    "versions": {"python": "3.11.1", "commit": "abc1234"},
    "command": "make bench-performance RUNS=2 SECONDS=3",
    "contenders": {"engine": "signal-engine serve", "uws": "built locally"},
}


def keep(folder, name, **by) -> None:
    results.write(folder / f"{name}.json", {**ABOUT, **scenarios(**by)})


@pytest.mark.parametrize("page", PAGES)
def test_the_tables_are_what_the_kept_results_make(page):
    text = tables.page(page).read_text(encoding="utf-8")
    assert text == tables.fill(text, PAGES[page]()), "make plots; make sizing"


@pytest.mark.parametrize("page", PAGES)
def test_every_table_has_its_place(page):
    text = tables.page(page).read_text(encoding="utf-8")
    assert sorted(re.findall(r"<!-- table: ([\w-]+) -->", text)) == sorted(PAGES[page]())


def test_a_table_that_there_is_none_of_is_named():
    with pytest.raises(tables.Missing, match="no table is named storms: there are storm"):
        tables.fill("<!-- table: storms -->\n<!-- end -->", {"storm": ""})
    assert tables.fill("a\n<!-- table: b -->\nold\n<!-- end -->\nc", {"b": "new\n"}) == (
        "a\n<!-- table: b -->\n\nnew\n\n<!-- end -->\nc"
    )


def test_no_kept_result_tells_a_place_of_a_machine():
    for file in results.RESULTS.glob("*.json"):
        text = file.read_text(encoding="utf-8")
        assert not [place for place in ("/tmp/", "/home/", "/root/", "/work/") if place in text], file.name


def test_without_results_the_tables_are_empty(tmp_path):
    assert made(tmp_path).keys() == made().keys()
    assert made(tmp_path)["storm"].count("\n") == 2


def test_a_table_has_medians_spreads_and_ratios_turn_by_turn(tmp_path):
    keep(tmp_path, "macro", relay={"engine": [cpu(1, 4), cpu(1, 6)], "uws": [cpu(2, 8), cpu(2, 8)]})
    found = made(tmp_path)
    assert "| signal-engine | 1.00 | 5.00 (4.00 to 6.00) | 1,000 | – | – |" in found["relay"]
    assert "| uWebSockets (C++) | 2.00 | 8.00 | 1,000 | 0.50 | 0.625 (0.500 to 0.750) |" in found["relay"]
    assert "| uWebSockets (C++) | built locally |" in found["servers"]
    assert "2031-02-03, `abc1234` | `make bench-performance RUNS=2 SECONDS=3` | Some CPU, 2 cores" in found["machines"]


def test_what_went_wrong_in_a_run_is_told(tmp_path):
    bad = {**cpu(2, 8), "errors": {"closed": 2, "corrupt": 0}, "err": {}, "lost": 3, "gap": 0}
    keep(tmp_path, "macro", relay={"engine": [cpu(1, 4)], "uws": [cpu(2, 8), bad]})
    assert "| uWebSockets (C++) | `relay` | 2 | closed 2, lost 3 |" in made(tmp_path)["faults"]
    keep(tmp_path, "macro", relay={"engine": [cpu(1, 4)], "uws": [cpu(2, 8)]})
    assert "uWebSockets" not in made(tmp_path)["faults"]


def test_latencies_have_percentiles_and_ratios(tmp_path):
    keep(tmp_path, "macro", pair={"engine": [latency(10.0)], "uws": [latency(20.0)]})
    assert "| uWebSockets (C++) | 2.00 | 20.0 | 50.0 | 1.00 | 0.500 |" in made(tmp_path)["pair"]


def test_sizes_are_columns_and_one_that_is_missing_is_a_dash(tmp_path):
    keep(tmp_path, "memory", idle_1000={"engine": [idle(150)], "uws": [idle(300)]}, idle_20000={"engine": [idle(160)]})
    found = made(tmp_path)
    assert "| server | 1,000 | 20,000 |" in found["memory"]
    assert "| signal-engine | 150 | 160 |" in found["memory"]
    assert "| uWebSockets (C++) | 300 | – |" in found["memory"]
    assert "| uWebSockets (C++) | 0.500 | – |" in found["memory-ratio"]


def test_a_room_is_timed_to_its_last_member(tmp_path):
    keep(tmp_path, "rooms", room_101={"engine": [room(101, 4000)], "uws": [room(101, 2000)]})
    found = made(tmp_path)
    assert "| server | 101 |" in found["room"]
    assert "| signal-engine | 50.0 |" in found["room"]
    assert "| uWebSockets (C++) | 100 |" in found["room"]
    assert "| uWebSockets (C++) | 0.500 |" in found["room-ratio"]


def test_very_many_connections_have_a_column_each(tmp_path):
    results.write(tmp_path / "scale-2000.json", {**ABOUT, "scale": scaled()})
    results.write(tmp_path / "scale-2000-ping-600.json", {**ABOUT, "scale": scaled(few_user=2.0, pings=0)})
    found = made(tmp_path)["scale"]
    assert "| 2,000 on 3 loops, pings every 25 s | 2,000 on 3 loops, without pings |" in found
    assert "| kernel memory of a connection, bytes | 2,048 | 2,048 |" in found
    assert "| CPU a delivery, µs | 10.0 | 10.0 |\n| ... among 1,000 | 10.0 | 20.0 |\n| ... ratio | 1.00 |" in found
    assert "| CPU a delivery less pings, µs | 8.0 | 8.0 |\n| ... among 1,000 | 8.0 |" in found
    assert "| messages delivered | 100,000 | 100,000 |\n| lost | 0 | 0 |" in found


def test_bars_are_a_table_of_targets_and_what_was_measured(tmp_path):
    keep(tmp_path, "macro", relay={"engine": [cpu(1, 4), cpu(1, 6)], "uws": [cpu(2, 8), cpu(2, 8)]})
    section = made(tmp_path)["bars"]
    (row,) = [line for line in section.splitlines() if "in pairs: CPU a delivery" in line]
    assert row.endswith(" by that of uWebSockets (C++) | ≤ 1 × | 0.625 (0.500 to 0.750) × | met |")
    assert "| ≤ 1.07 × | – | not measured |" in section


def test_user_cpu_is_as_uncertain_as_it_has_few_samples(tmp_path):
    run = cpu(1, 4)
    run["all_servers"]["user_s"] = 0.4
    keep(tmp_path, "macro", relay={"engine": [run] * 4})
    assert "relay" not in made(tmp_path)["samples"]
    about = {**ABOUT, "machine": {**ABOUT["machine"], "ticks": 250}}
    results.write(tmp_path / "macro.json", {**about, **scenarios(relay={"engine": [run] * 4})})
    assert "| `relay` | 100 | 10 % | 5 % |" in made(tmp_path)["samples"]


def test_other_tools_have_a_table_each(tmp_path):
    hop = {"same_us": [20.0], "across_us": [24.0], "bare_us": [4.0], "ratio": [1.0]}
    results.write(tmp_path / "hop.json", {**ABOUT, "forms": {"hop": hop}})
    kernel = {"by": "sockets", "bare sockets": [8000.0], "engine sockets": [8080.0], "ratio": [1.01]}
    results.write(tmp_path / "kernel.json", {**ABOUT, "forms": {"kernel": kernel}})
    latencies = {"quiet_p50_us": [1.0], "quiet_p99_us": [2.0], "storm_p50_us": [3.0], "storm_p99_us": [8.0]}
    call = {"commit": "abc1234", "command": "python bench/storm.py --away 9", "connections": 5000}
    storm = {"--away 9": {**call, **latencies, "ratio": [4.0], "lost": [2]}}
    results.write(tmp_path / "storm.json", {**ABOUT, "forms": storm})
    found = made(tmp_path)
    assert "| 20.0 | 24.0 | 4.00 | 1.00 |" in found["hop"]
    assert "| `sockets` | 8,000 | 8,080 | 1.01 |" in found["kernel"]
    row = "| 5,000, `--away 9` | `python bench/storm.py --away 9`, `abc1234` | 1.00 | 2.00 | 3.00 | 8.00 | 4.00 | 2 |"
    assert row in found["storm"]


def test_every_scenario_of_the_page_is_measured():
    kept = {scenario.name for scenario in macro.SCENARIOS if scenario.part}
    assert kept == set(CPU_TABLES) | set(LATENCY_TABLES)


def test_rows_of_very_many_are_figures():
    assert {*scale.ALONE, *scale.BESIDE} <= set(scaled()["many"])
