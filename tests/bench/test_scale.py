"""What is pure in the script of very many connections: how runs become figures, and what it refuses."""

import pytest

import contenders
import scale
from runs import mixed, scaled, summed

MEMINFO = {
    "MemTotal": 1000, "MemFree": 300, "Buffers": 10, "Cached": 190, "SwapCached": 0, "AnonPages": 350,
    "Slab": 80, "KernelStack": 5, "PageTables": 7, "HugePages_Total": 0,
}


def test_kernel_memory_is_what_it_counts_and_what_is_nobodys():
    assert scale.kernel_kb(MEMINFO) == {"counted": 92, "all_but_user": 150}


def test_a_delivery_costs_with_and_without_what_idle_does():
    found = summed(mixed())
    assert found["cpu_us"] == pytest.approx(10.0)
    assert found["cpu_us_less_pings"] == pytest.approx(8.0)
    assert found["idle_user_ms"] + found["idle_system_ms"] == pytest.approx(20)
    assert found["ping_us"] == pytest.approx(250)


def test_pings_cost_what_they_did_in_the_quiet_or_it_is_taken_as_it_was():
    assert summed(mixed(pings_measured=200))["cpu_us_less_pings"] == pytest.approx(9.5)
    assert summed(mixed(pings_measured=0))["cpu_us_less_pings"] == 10
    without = mixed(pings=0, seconds=30.0)
    assert summed(without)["cpu_us_less_pings"] == pytest.approx(4) and summed(without)["ping_us"] is None


def test_figures_are_of_one_connection_and_one_end():
    found = summed(mixed())
    assert (found["kernel_bytes"], found["not_user_bytes"]) == (2048, 4096)
    assert (found["user_bytes"], found["base_bytes"]) == (160, 1000 * 1024)
    assert found["pings_per_s"] == 80 and found["cores"] == pytest.approx(0.1)


def test_few_are_the_mean_of_both_runs():
    found = scaled()
    found["few"] = [summed(mixed(0.4)), summed(mixed(0.8))]
    assert scale.few(found)["cpu_us"] == pytest.approx(6)
    assert scale.few(found)["cpu_us_less_pings"] == pytest.approx(4)


def test_what_does_not_hold_is_told():
    assert scale.trouble(scaled(pings=0)) == []
    (told,) = scale.trouble(scaled(few_user=0.5, pings=0))
    assert told == "a delivery among all costs 2.00 of one among 1,000: more than 1.3"
    broken = {**scaled(), "many": summed(mixed(lost=3))}
    assert scale.trouble(broken) == ["among all: not everything was delivered: lost 3"]


def test_with_pings_cpu_is_shown_without_a_bar():
    assert scale.trouble(scaled(few_user=0.1)) == []
    pinged = scaled(few_user=0.1, pings=0)
    pinged["many"]["loaded_pings_per_s"] = 0.1
    assert scale.trouble(pinged) == []
    assert scale.trouble(scaled(few_user=0.1, pings=0)) != []
    assert "CPU has no bar" in scale.shown(pinged)
    assert "no bar" not in scale.shown(scaled(pings=0))


def test_pings_are_told_as_they_were():
    assert scale.pings_said(scaled(pings=0)) == "without pings"
    spoken = {**scaled(pings=0), "ping_interval": 2.0}
    spoken["many"]["pings_per_s"] = 3
    assert scale.without_pings(spoken) and scale.pings_said(spoken) == "pings every 2 s"
    assert scale.pings_said(scaled()) == "pings every 25 s"


def test_the_summary_has_every_figure():
    said = scale.shown(scaled(few_user=0.6))
    for text in ("2,000 connections on 3 loops", "160.0", "2,048.0", "80.0", "2.00"):
        assert text in said
    without = scaled()
    without["many"]["user_bytes"] = None
    assert "user memory of a connection, bytes                    unknown" in scale.shown(without)


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
    assert (plain.file.name, rarely.file.name) == ("scale-2000.json", "scale-2000-ping-600.json")


def test_what_can_not_run_is_told_before_anything_is_started(monkeypatch, tmp_path):
    monkeypatch.setattr(contenders.resource, "getrlimit", lambda _which: (1024, 1024))
    monkeypatch.setattr(scale, "LOAD", tmp_path / "load")
    options = scale.parse_options(["--connections", "1000000"])
    assert "is not built" in scale.cannot(options)
    scale.LOAD.touch()
    assert scale.cannot(options) == "1,000,000 connections need 1117 loops, and an engine has at most 250"
    assert scale.ROOMS * scale.MEMBERS <= scale.FEW, "the same rooms are made among few connections"


def test_the_same_load_is_put_on_few_and_many():
    options = scale.parse_options(["--connections", "50000"])
    few, many = (scale.load_command(options, n, 9).split() for n in (1000, 50_000))
    assert [i for i, (a, b) in enumerate(zip(few, many, strict=True)) if a != b] == [2, len(few) - 1]
    assert "--threads 3 --rate 10000 --rooms 10 --members 100 --room-rate 10 --quiet 60 --seconds 9" in " ".join(few)
