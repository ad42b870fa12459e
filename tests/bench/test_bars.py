"""What the engine is held to, beside what results say of it: met, missed, not shown, or not measured."""

from pathlib import Path

import results
from report import bars
from report.bars import Bar
from results import Spread
from runs import cpu, latency, scaled, scenarios


def of(folder: Path) -> dict[str, Bar]:
    return {bar.what: bar for bar in bars.bars(folder)}


def judged(folder: Path, words: str) -> list[tuple[str, str, str]]:
    """Target, what was measured and verdict of each bar that has these words."""
    return [(bar.targeted(), bar.measured(), bar.verdict()) for bar in bars.bars(folder) if words in bar.what]


def keep_macro(folder: Path, **by: dict) -> None:
    results.write(folder / "macro.json", scenarios(**by))


def million(few_user: float, pings: int) -> dict:
    return {"scale": {**scaled(few_user=few_user, pings=pings), "connections": bars.MILLION}}


def test_without_results_each_bar_has_its_target_and_is_not_measured(tmp_path):
    found = bars.bars(tmp_path)
    assert len(found) == 16 == len(of(tmp_path))
    assert {bar.verdict() for bar in found} == {"not measured"}
    assert {bar.measured() for bar in found} == {""}
    targets = "≤ 192 B|≤ 1.07 ×|≤ 1 ×|≤ 0.8 ×|≤ 0.6 ×|≤ 1.1 ×|≤ 1.3 ×|≤ 1.2 ×|≤ 0.4 ×|≥ 1.4 ×|≤ 0.7 ×|≤ 10 ×, none lost"
    assert {bar.targeted() for bar in found} == set(targets.split("|"))


def test_a_bar_is_met_by_every_turn_missed_by_every_turn_or_not_shown():
    assert Bar("x", 1.0, Spread(0.5, 0.9, 1.0)).verdict() == "met"
    assert Bar("x", 1.0, Spread(0.5, 0.9, 1.01)).verdict() == "not shown"
    assert Bar("x", 1.2, Spread(-0.08, 0.4, 1.42)).verdict() == "not shown"
    assert Bar("x", 1.0, Spread(1.0, 1.5, 2.0)).verdict() == "not shown"
    assert Bar("x", 1.0, Spread(1.01, 1.5, 2.0)).verdict() == "missed"
    assert Bar("x", 1.0, Spread(1.0, 1.5, 2.0), least=True).verdict() == "met"
    assert Bar("x", 1.0, Spread(0.9, 1.5, 2.0), least=True).verdict() == "not shown"
    assert Bar("x", 1.0, Spread(0.5, 0.6, 0.9), least=True).verdict() == "missed"
    assert Bar("x", 1.0, Spread(0.5, 0.9, 0.9), lost=1).verdict() == "missed"
    assert Bar("x", 1.0, Spread(0.5, 0.9, 0.9), lost=0).verdict() == "met"


def test_cpu_is_held_to_the_rivals_in_the_same_turn(tmp_path):
    runs = {"engine": [cpu(3, 9)], "uws": [cpu(4, 10)]}
    keep_macro(tmp_path, relay=runs, random=runs, churn=runs)
    assert judged(tmp_path, "in pairs: CPU") == [("≤ 1 ×", "0.900 ×", "met")]
    assert judged(tmp_path, "in pairs: user") == [("≤ 0.8 ×", "0.75 ×", "met")]
    assert judged(tmp_path, "anyone: user") == [("≤ 0.8 ×", "0.75 ×", "met")]
    assert judged(tmp_path, "connect, greet") == [("≤ 1 ×", "0.900 ×", "met")]


def test_two_loops_are_held_to_one(tmp_path):
    runs = {"engine": [cpu(1, 10), cpu(1, 10)], "engine-2": [cpu(1, 12), cpu(1, 13)], "uws": [cpu(4, 8)]}
    keep_macro(tmp_path, fanout_10k=runs)
    assert judged(tmp_path, "on two loops") == [("≤ 1.1 ×", "1.25 (1.20 to 1.30) ×", "missed")]
    assert judged(tmp_path, "of 10,000: CPU") == [("≤ 1 ×", "1.25 ×", "missed")]
    assert judged(tmp_path, "of 10,000: user") == [("≤ 0.6 ×", "0.25 ×", "met")]


def test_nodes_are_held_to_the_proxy(tmp_path):
    cross = {"engine": [{**cpu(1, 4), "per_second": 2000.0}], "goproxy": [cpu(9, 16)]}
    keep_macro(tmp_path, cross=cross, cross_pair={"engine": [latency(9.0)], "goproxy": [latency(9.0)]})
    assert judged(tmp_path, "node to node: CPU") == [("≤ 0.4 ×", "0.250 ×", "met")]
    assert judged(tmp_path, "node to node: deliveries") == [("≥ 1.4 ×", "2.00 ×", "met")]
    assert judged(tmp_path, "lone pair of two nodes") == [("≤ 0.7 ×", "1.00 ×", "missed")]


def test_a_delivery_among_a_million_is_judged_by_the_run_without_pings(tmp_path):
    results.write(tmp_path / "scale-1000000.json", million(0.1, 800))
    assert judged(tmp_path, "without pings") == [("≤ 1.3 ×", "", "not measured")]
    assert judged(tmp_path, "user memory") == [("≤ 192 B", "160 B", "met")]
    results.write(tmp_path / "scale-1000000-ping-3600.json", million(0.8, 0))
    results.write(tmp_path / "scale-2500000-ping-3600.json", {"scale": scaled(few_user=0.1, pings=0)})
    assert judged(tmp_path, "without pings") == [("≤ 1.3 ×", "1.25 ×", "met")]


def test_other_tools_tell_their_ratios(tmp_path):
    results.write(tmp_path / "hop.json", {"forms": {"hop": {"ratio": [1.0, 1.4]}}})
    results.write(tmp_path / "kernel.json", {"forms": {"kernel": {"ratio": [1.05, 1.0, 1.01]}}})
    assert judged(tmp_path, "another loop") == [("≤ 1.2 ×", "1.20 (1.00 to 1.40) ×", "not shown")]
    assert judged(tmp_path, "kernel memory") == [("≤ 1.07 ×", "1.01 (1.00 to 1.05) ×", "met")]


def test_each_form_of_a_storm_has_its_bar_and_what_is_not_the_engine_none(tmp_path):
    def form(*ratios: float, lost: int = 0) -> dict:
        return {"connections": 200_000, "ratio": list(ratios), "lost": [lost] * len(ratios)}

    forms = {"all at one moment": form(60, 80), "--away 9": form(4, 6), "--rate 9": form(4, lost=2)}
    results.write(tmp_path / "storm.json", {"forms": {**forms, "--away 9 --apart": form(40)}})
    target = "≤ 10 ×, none lost"
    assert judged(tmp_path, "storm of 200,000 reconnects") == [
        (target, "70.0 (60.0 to 80.0) ×, none lost", "missed"),
        (target, "5.00 (4.00 to 6.00) ×, none lost", "met"),
        (target, "4.00 ×, 2 lost", "missed"),
        (target, "40.0 ×, none lost", "for comparison"),
    ]
    assert judged(tmp_path, "`--away 9`") and judged(tmp_path, "reconnects, all at")
