"""docs/performance.md is what the kept results make, and the document shows what results have and lack."""

from pathlib import Path

import bars
import performance
import performance_doc
import results
import scale_figures
from performance_doc import document
from runs import cpu, idle, latency, room, scaled

DOCUMENT = Path(__file__).parents[2] / "docs" / "performance.md"
ABOUT = {
    "date": "2031-02-03T04:05:06+00:00",
    "machine": {"architecture": "x86_64", "cpu": "Some CPU", "cores": 2, "memory": "2097152 kB"},
    "kernel": "6.1",
    "versions": {"python": "3.11.1", "commit": "abc1234"},
    "command": "make bench-performance RUNS=2 SECONDS=3",
    "contenders": {"engine": "signal-engine serve", "uws": "built locally"},
}


def keep(folder: Path, name: str, scenarios: dict) -> None:
    results.write(folder / f"{name}.json", {**ABOUT, "steps": {}, "scenarios": scenarios})


def test_the_document_is_what_the_kept_results_make():
    assert DOCUMENT.read_text(encoding="utf-8") == document(), "make plots"


def test_no_kept_result_tells_a_place_of_a_machine():
    for file in results.RESULTS.glob("*.json"):
        text = file.read_text(encoding="utf-8")
        assert not [place for place in ("/tmp/", "/home/", "/root/", "/work/") if place in text], file.name


def test_without_results_each_section_says_how_to_make_them(tmp_path):
    text = document(tmp_path)
    assert text.count("No results are kept: `make bench-performance` makes them.") == 4
    assert text.count("No results are kept: `make bench-scale N=1000000` makes them.") == 1
    for tool, file in (("hop", "hop"), ("storm", "storm"), ("kernel_memory", "kernel")):
        makes = f"`python bench/{tool}.py --json bench/results/{file}.json` makes them."
        assert text.count(f"No results are kept: {makes}") == 1
    assert "![" not in text


def test_a_table_has_medians_spreads_and_ratios_turn_by_turn(tmp_path):
    runs = {"engine": [cpu(1, 4), cpu(1, 6)], "uws": [cpu(2, 8), cpu(2, 8)], "goproxy": []}
    keep(tmp_path, "macro", {"relay": runs})
    text = document(tmp_path)
    assert "| signal-engine | 1.00 | 5.00 (4.00 to 6.00) | 1,000 | – | – |" in text
    assert "| uWebSockets (C++) | 2.00 | 8.00 | 1,000 | 0.50 | 0.625 (0.500 to 0.750) |" in text
    assert "| uWebSockets (C++) | built locally |" in text
    assert "2031-02-03, commit `abc1234`, `make bench-performance RUNS=2 SECONDS=3`" in text
    assert "| goproxy" not in text
    assert "plots/cpu.svg" in text and "plots/latency.svg" not in text


def test_what_went_wrong_in_a_run_is_told_beside_its_figures(tmp_path):
    bad = {**cpu(2, 8), "errors": {"closed": 2, "corrupt": 0}, "err": {}, "lost": 3, "gap": 0}
    keep(tmp_path, "macro", {"relay": {"engine": [cpu(1, 4)], "uws": [cpu(2, 8), bad]}})
    assert "\nNot everything went well: uWebSockets (C++), turn 2 of 2: closed 2, lost 3.\n" in document(tmp_path)
    keep(tmp_path, "macro", {"relay": {"engine": [cpu(1, 4)], "uws": [cpu(2, 8)]}})
    assert "went well" not in document(tmp_path)


def test_latencies_have_a_plot_where_a_curve_is_kept(tmp_path):
    keep(tmp_path, "macro", {"pair": {"engine": [latency(10.0)], "uws": [latency(20.0)]}})
    text = document(tmp_path)
    assert "| uWebSockets (C++) | 2.00 | 20.0 | 50.0 | 1.00 | 0.500 |" in text
    assert "plots/latency.svg" in text


def test_sizes_are_columns_and_who_lacks_one_has_a_dash(tmp_path):
    sizes = {"idle-1000": {"engine": [idle(150)], "uws": [idle(300)]}, "idle-20000": {"engine": [idle(160)], "uws": []}}
    keep(tmp_path, "memory", sizes)
    text = document(tmp_path)
    assert "| bytes each of connections | 1,000 | 20,000 |" in text
    assert "| signal-engine | 150 | 160 |" in text
    assert "| uWebSockets (C++) | 300 | – |" in text
    assert "| uWebSockets (C++) | 0.500 | – |" in text


def test_a_room_is_timed_to_its_last_member(tmp_path):
    keep(tmp_path, "rooms", {"room-101": {"engine": [room(101, 4000)], "uws": [room(101, 2000)]}})
    text = document(tmp_path)
    assert "| mean milliseconds by members | 101 |" in text
    assert "| signal-engine | 50.0 |" in text
    assert "| uWebSockets (C++) | 100 |" in text
    assert "| uWebSockets (C++) | 0.500 |" in text


def test_very_many_connections_have_a_table_each(tmp_path):
    results.write(tmp_path / "scale-2000.json", {**ABOUT, "scale": scaled()})
    text = document(tmp_path)
    results.write(tmp_path / "scale-2000-ping-600.json", {**ABOUT, "scale": scaled(few_user=2.0, pings=0)})
    text = document(tmp_path)
    with_pings, without = text.partition("### 2,000 connections on 3 loops, without pings\n")[::2]
    assert "### 2,000 connections on 3 loops, with pings\n" in with_pings
    assert "| CPU a delivery, µs | 10.0 | 20.0 | 0.50 |" in without and "less pings" not in without.partition("##")[0]
    assert "| kernel memory of a connection, bytes | 2,048 |" in text
    assert "| CPU a delivery, µs | 10.0 | 10.0 | 1.00 |" in text
    assert "| CPU a delivery less pings, µs | 8.0 | 8.0 | 1.00 |" in text
    assert "100,000 messages were delivered in 10 s; all were delivered." in text


def test_bars_are_a_table_of_targets_and_what_was_measured(tmp_path):
    keep(tmp_path, "macro", {"relay": {"engine": [cpu(1, 4), cpu(1, 6)], "uws": [cpu(2, 8), cpu(2, 8)]}})
    section = document(tmp_path).partition("\n## Bars\n")[2].partition("\n## ")[0]
    (row,) = [line for line in section.splitlines() if "in pairs: CPU a delivery" in line]
    assert row.endswith(" by that of uWebSockets (C++) | ≤ 1 × | 0.625 (0.500 to 0.750) × | met |")
    assert "| ≤ 1.07 × | – | not measured |" in section
    assert section.count("\n| ") == 2 + len(bars.bars(tmp_path))


def test_user_cpu_is_as_uncertain_as_the_kernel_looked_seldom(tmp_path):
    run = cpu(1, 4)
    run["all_servers"]["user_s"] = 0.4
    about = {**ABOUT, "steps": {}, "scenarios": {"relay": {"engine": [run] * 4}}}
    results.write(tmp_path / "macro.json", about)
    assert "The kernel looks" not in document(tmp_path)
    results.write(tmp_path / "macro.json", {**about, "machine": {**ABOUT["machine"], "ticks": 250}})
    text = document(tmp_path)
    assert "has 100 looks that found it in user mode, so its user CPU is uncertain by about 10 %" in text
    assert "that of all 4 together by 5 %." in text


def test_the_kernel_is_told_where_it_is_kept(tmp_path):
    keep(tmp_path, "rooms", {"room-101": {"engine": [room(101, 4000)]}})
    assert "\n* Linux 6.1\n" in document(tmp_path)
    newer = {**ABOUT, "kernel": {"turns": [{"ratio": 1.0}]}}
    results.write(tmp_path / "kernel.json", {**newer, "machine": {**ABOUT["machine"], "kernel": "6.2"}})
    assert "\n* Linux 6.2\n" in document(tmp_path)
    results.write(tmp_path / "kernel.json", newer)
    assert "\n* Linux {" not in document(tmp_path)


def test_other_tools_have_a_table_each(tmp_path):
    hop = {"turns": [{"same_us": 20.0, "across_us": 24.0, "bare_us": 4.0, "ratio": 1.0}]}
    results.write(tmp_path / "hop.json", {**ABOUT, "command": "python bench/hop.py", "hop": hop})
    pair = {"slab": 9000.0, "sockets": 8000.0}
    kernel = {"by": "sockets", "turns": [{"bare": pair, "engine": {**pair, "sockets": 8080.0}, "ratio": 1.01}]}
    results.write(tmp_path / "kernel.json", {**ABOUT, "command": "python bench/kernel_memory.py", "kernel": kernel})
    turn = {"quiet_us": {"p50": 1.0, "p99": 2.0}, "storm_us": {"p50": 3.0, "p99": 8.0}, "ratio": 4.0, "lost": 1}
    call = {"date": "2031", "commit": "abc1234", "command": "python bench/storm.py --away 9"}
    storm = {"connections": 5000, "forms": {"--away 9": [turn, turn], "all at one moment": [turn]}}
    results.write(tmp_path / "storm.json", {**ABOUT, "storm": {**storm, "calls": {"--away 9": call}}})
    text = document(tmp_path)
    assert "| 1 turn | 20.0 | 24.0 | 4.00 | 1.00 |" in text
    assert "| `sockets`, 1 turn | 8,000 | 8,080 | 1.01 |" in text
    assert "| `--away 9` | 1.00 | 2.00 | 3.00 | 8.00 | 4.00 | 2 |" in text
    assert "| all at one moment | 1.00 | 2.00 | 3.00 | 8.00 | 4.00 | 1 |" in text
    assert "    python bench/storm.py --away 9    # abc1234" in text


def test_every_scenario_of_the_page_is_measured():
    assert set(performance.MACRO) == set(performance_doc.CPU_TABLES) | set(performance_doc.LATENCY_TABLES)


def test_rows_of_the_page_are_figures():
    found = scale_figures.figures(scaled())
    assert set(performance_doc.BESIDE_ROWS) <= set(found["many"])
    assert all(row(found) for row in performance_doc.SCALE_ROWS.values())
