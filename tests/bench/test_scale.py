"""What is pure in the script of very many connections: how runs become figures, and what it refuses."""

import time

import pytest

import contenders
import scale
import scale_figures
from runs import scaled

MEMINFO = """\
MemTotal:        1000 kB
MemFree:          300 kB
Buffers:           10 kB
Cached:           190 kB
SwapCached:         0 kB
AnonPages:        350 kB
Slab:              80 kB
KernelStack:        5 kB
PageTables:         7 kB
HugePages_Total:    0
"""
SOCKSTAT = "sockets: used 8\nTCP: inuse 3 orphan 0 tw 9 alloc 5 mem 2\nUDP: inuse 1 mem 4\n"


def test_kernel_memory_is_what_it_counts_and_what_is_nobodys():
    assert scale.kernel_kb(MEMINFO, SOCKSTAT) == {
        "counted": 92,
        "slab": 80,
        "stacks": 5,
        "page_tables": 7,
        "tcp_buffers": 8,
        "all_but_user": 150,
    }
    assert scale.tcp_pages("sockets: used 8\n") == 0


def test_a_sampler_keeps_what_was_next_to_a_moment():
    sampler = scale.Sampler()
    sampler.samples = [(1.0, {"slab": 1.0}), (2.0, {"slab": 2.0}), (4.0, {"slab": 4.0})]
    assert [sampler.at(when)["slab"] for when in (0, 1.4, 1.6, 3.1, 9)] == [1, 1, 2, 4, 4]


def test_a_sampler_samples_until_it_is_stopped(monkeypatch):
    monkeypatch.setattr(scale, "SAMPLE_S", 0.001)
    sampler = scale.Sampler()
    sampler.start()
    end = time.monotonic() + 10
    while len(sampler.samples) < 3 and time.monotonic() < end:
        pass
    sampler.stop()
    assert len(sampler.samples) >= 3
    assert not sampler.is_alive()
    assert sampler.samples[-1][0] > sampler.samples[0][0]


def test_a_delivery_costs_with_and_without_what_idle_does():
    run = scaled()["many"]
    assert scale_figures.idle_cpu(run) == pytest.approx(0.02)
    assert scale_figures.cpu_per_delivery(run) == pytest.approx(10.0)
    assert scale_figures.pings_cpu(run) == pytest.approx(0.2)
    assert scale_figures.cpu_per_delivery(run, 0.2) == pytest.approx(8.0)


def test_pings_cost_what_they_did_in_the_quiet_or_it_is_taken_as_it_was():
    run = scaled()["many"]
    assert scale_figures.pings_cpu({**run, "pings_measured": 200}) == pytest.approx(0.05)
    assert scale_figures.pings_cpu({**run, "pings_measured": 0}) == 0
    run["quiet"] |= {"pings": 0}
    assert scale_figures.pings_cpu({**run, "seconds": 30.0}) == pytest.approx(0.6)


def test_figures_are_of_one_connection_and_one_end():
    found = scale_figures.figures(scaled(few_user=0.6))
    assert found["kernel_bytes"] == {"counted": 2048, "all_but_user": 4096}
    assert found["user_bytes"] == 160
    assert found["many"]["pings_per_s"] == 80
    assert found["ratio"]["cpu_us_per_delivery"] == pytest.approx(10 / 6)
    assert found["ratio"]["cpu_us_per_delivery_less_pings"] == pytest.approx(8 / 4)


def test_what_does_not_hold_is_told():
    assert scale_figures.trouble(scaled(pings=0)) == []
    (told,) = scale_figures.trouble(scaled(few_user=0.5, pings=0))
    assert told == "a delivery among all costs 2.00 of one among 1,000: more than 1.3"
    broken = scaled()
    broken["many"] |= {"kept": False, "lost": 3}
    assert scale_figures.trouble(broken) == ["among all: not everything was delivered: lost 3"]


def test_with_pings_cpu_is_told_and_not_judged():
    assert scale_figures.trouble(scaled(few_user=0.1)) == []
    pinged = scaled(few_user=0.1, pings=0)
    pinged["many"]["pings_measured"] = 1
    assert scale_figures.trouble(pinged) == []
    assert scale_figures.trouble(scaled(few_user=0.1, pings=0)) != []
    assert "CPU is not judged" in scale_figures.shown(pinged)
    assert "less pings" in scale_figures.shown(pinged)
    without = scale_figures.shown(scaled(pings=0))
    assert "judged" not in without and "less pings" not in without


def test_pings_are_told_as_they_were():
    assert scale_figures.pings_said(scaled(pings=0)) == "without pings"
    assert scale_figures.pings_said(scaled()) == "with pings"
    spoken = {**scaled(pings=0), "ping_interval": 2.0}
    spoken["many"]["quiet"]["pings"] = 3
    assert scale_figures.without_pings(spoken) and scale_figures.pings_said(spoken) == "pings every 2 s"
    assert scale_figures.pings_said({**scaled(), "ping_interval": 25.0}) == "pings every 25 s"


def test_the_summary_has_every_figure():
    said = scale_figures.shown(scaled(few_user=0.6))
    for text in ("2,000 connections on 3 loops", "160 bytes", "2,048 bytes", "80 pings", "2.00"):
        assert text in said
    without = scaled()
    without["many"]["all_servers"]["bytes_per_connection"] = None
    assert "user memory    unknown" in scale_figures.shown(without)


def test_memory_that_would_not_suffice_is_a_sentence():
    assert scale.short_of_memory(1_000_000, 24e6) == ""
    assert scale.short_of_memory(1_000_000, 4e6) == (
        "1,000,000 connections need about 8.6 GB for both ends, and 4.1 GB are available"
    )


def test_loops_are_as_many_as_descriptors_demand(monkeypatch):
    monkeypatch.setattr(contenders.resource, "getrlimit", lambda _which: (1024, 20_000))
    assert contenders.loops_for(1) == contenders.loops_for(17_500) == 1
    assert contenders.loops_for(17_501) == 2
    assert scale.parse_options(["--connections", "1000000"]).loops == 58
    assert scale.parse_options(["--connections", "2000"]).loops == 2
    assert contenders.ENGINE.with_loops(58).shown().count("--loops 58 ") == 1


def test_the_engine_pings_as_it_does_unless_asked_otherwise():
    plain = scale.parse_options(["--connections", "2000"])
    rarely = scale.parse_options(["--connections", "2000", "--ping-interval", "600"])
    assert "ping" not in scale.engine(plain).shown()
    assert scale.engine(rarely).shown() == scale.engine(plain).shown() + " --ping-interval 600"


def test_runs_with_other_pings_are_kept_in_a_file_of_their_own():
    plain = scale.parse_options(["--connections", "2000"])
    rarely = scale.parse_options(["--connections", "2000", "--ping-interval", "600"])
    assert (plain.json.name, rarely.json.name) == ("scale-2000.json", "scale-2000-ping-600.json")


def test_what_can_not_run_is_told_before_anything_is_started(monkeypatch, tmp_path):
    monkeypatch.setattr(contenders.resource, "getrlimit", lambda _which: (1024, 1024))
    load = tmp_path / "load"
    options = scale.parse_options(["--connections", "1000000", "--load", str(load)])
    assert "is not built" in scale.cannot(options)
    load.touch()
    assert scale.cannot(options) == "1,000,000 connections need 1117 loops, and an engine has at most 250"
    options = scale.parse_options(["--connections", "2000", "--members", "101", "--load", str(load)])
    assert "--rooms x --members must be at most 1000" in scale.cannot(options)


def test_the_same_load_is_put_on_few_and_many():
    options = scale.parse_options(["--connections", "50000", "--loops", "3"])
    few, many = (scale.load_command(options, n, 9) for n in (1000, 50_000))
    assert [i for i, (a, b) in enumerate(zip(few, many, strict=True)) if a != b] == [2, len(few) - 1]
    assert "--threads 3 --rate 10000 --rooms 10 --members 100 --room-rate 10 --quiet 60 --seconds 9" in " ".join(few)
