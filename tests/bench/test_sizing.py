"""The model of docs/sizing.md: its formulas, and what it says where a result is missing."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

import results
import scale
from report import model, sizing
from report.model import Case, Costs, Span, node
from report.tables import Missing
from runs import scaled

COSTS = Costs(
    connection=96,
    member=8,
    room=200,
    room_on_loop=40,
    kernel=4000,
    subscription=700,
    ping=Span(10e-6, 20e-6),
    delivery=5e-6,
    wake=45e-6,
    crossing=Span(6e-6, 60e-6),
)
ONE = Case(1_000_000, 1, 10, 1000)


def test_every_row_has_loops_and_descriptors_that_there_can_be():
    assert max(case.connections for case in sizing.CASES) == 10_000_000
    for case in sizing.CASES:
        found = node(case, COSTS)
        assert found["each"] / found["loops"] <= model.TABLE * model.FILLED
        assert model.LOOPS <= found["loops"] <= scale.LOOPS_MAX
    assert node(Case(10_000_000, 1, 10, 1), COSTS)["loops"] == 11
    assert node(Case(10_000_000, 2, 10, 1), COSTS)["loops"] == 8


def test_memory_on_one_node():
    # 100,000 rooms of 10, of which a loop of eight has a member with 1 - (7/8)^10 = 0.7369
    on_loops = 100_000 * 8 * (1 - (7 / 8) ** 10)
    assert node(ONE, COSTS)["engine"] == pytest.approx(1_000_000 * 104 + 100_000 * 200 + on_loops * 40)
    assert node(ONE, COSTS)["kernel"] == 4e9
    assert node(ONE, COSTS)["subscriptions"] == 100_000


def test_only_some_connections_may_be_in_rooms():
    few = replace(ONE, some_rooms=10, some_loops=1)
    assert node(few, COSTS)["engine"] == pytest.approx(1_000_000 * 96 + 100 * 8 + 10 * 200 + 10 * 40)


def test_two_nodes_halve_what_is_a_connections_and_not_the_rooms():
    two = replace(ONE, nodes=2)
    assert node(two, COSTS)["kernel"] == 2e9
    assert node(two, COSTS)["subscriptions"] == pytest.approx(100_000 * (1 - 0.5**10))
    assert node(two, COSTS)["link"] == pytest.approx(500 + 500 * (1 - 0.5**10))


def test_a_message_costs_from_what_it_does_on_busy_loops_to_a_wake_of_each_loop_that_has_members():
    found = node(ONE, COSTS)["messages"]
    woken = 8 * (1 - (7 / 8) ** 9)
    assert found.low == pytest.approx(9000 * 5e-6 + 1000 * 6e-6)
    assert found.high == pytest.approx(9000 * 5e-6 + 1000 * woken * 45e-6 + 1000 * 60e-6)


def test_members_of_one_loop_share_a_wake():
    assert node(replace(ONE, members=1000), COSTS)["wakes"] == pytest.approx(1000 * 8)
    assert node(replace(ONE, members=2), COSTS)["wakes"] == pytest.approx(1000)
    assert node(replace(ONE, members=2, nodes=5), COSTS)["wakes"] == pytest.approx(200)


def test_deliveries_take_no_more_cores_than_there_are_loops_unless_they_must():
    assert model.delivering(COSTS, 1_000_000, 1_000_000, 8) == Span(5, 8)
    assert model.delivering(COSTS, 2_000_000, 1_000_000, 8) == Span(10, 10)
    crowded = replace(ONE, rate=100_000)
    assert node(crowded, COSTS)["messages"].high == pytest.approx(8 + model.LINK_THREADS)


def test_a_span_is_shown_once_where_its_ends_look_alike():
    assert Span(0.401, 0.404).shown(2) == "0.40"
    assert Span(0.4, 1234.5).shown(1) == "0.4 to 1,234.5"


def run_of_scale() -> dict:
    return {"scale": scaled()}


def test_a_run_is_held_to_the_model_by_what_was_counted_in_it():
    cores, engine, kernel = sizing.checks(COSTS, run_of_scale())
    # 80 pings and 10,000 deliveries a second, of which 9,100 are relays, in 1 s of CPU of 10
    woken = 9100 + 100 * 3 * (1 - (2 / 3) ** 9)
    assert cores.model.low == pytest.approx(80 * 10e-6 + 10_000 * 5e-6)
    assert cores.model.high == pytest.approx(80 * 20e-6 + 10_000 * 5e-6 + woken * 45e-6)
    assert cores.measured == pytest.approx(0.1)
    assert cores.row()[-2:] == [f"{0.1 / cores.model.low:.2f}", f"{0.1 / cores.model.high:.2f}"]
    assert engine.measured == pytest.approx(2000 * 160 / 1e9)
    assert engine.model.low == pytest.approx((2000 * 96 + 20 * 8 + 2 * 200 + 2 * 3 * (1 - (2 / 3) ** 10) * 40) / 1e9)
    assert kernel.model.low == pytest.approx(2000 * 4000 / 1e9)
    assert kernel.measured == pytest.approx(2000 * 2048 / 1e9)
    assert kernel.row()[3] == kernel.row()[-1] == ""


def test_a_wake_is_what_a_delivery_costs_more_where_loops_sleep():
    run = run_of_scale()
    # 8 µs a delivery less pings, 10,000 deliveries a second
    woken = 9100 + 100 * 3 * (1 - (2 / 3) ** 9)
    assert model.wake_us([run], 5.0) == pytest.approx(3.0 * 10_000 / woken)
    dearer = json.loads(json.dumps(run))
    for few in dearer["scale"]["few"]:
        few["cpu_us_less_pings"] = 12.0
    assert model.wake_us([run, dearer], 5.0) == model.wake_us([dearer], 5.0) > model.wake_us([run], 5.0)


def test_the_kernels_figure_is_not_held_to_the_run_that_it_is_from():
    run = run_of_scale()
    own = replace(COSTS, kernel=run["scale"]["many"]["kernel_bytes"])
    assert [check.name.split(",")[0] for check in sizing.checks(own, run)] == ["cores", "engine"]


def test_a_million_without_pings_says_nothing_of_pings(tmp_path):
    million = results.read("scale-1000000")
    million["scale"]["many"]["ping_us"] = None
    with pytest.raises(Missing, match="has no pings: `make bench-scale N=1000000` makes it"):
        model.costs(kept_in(tmp_path, **{"scale-1000000": million}))


def kept_in(folder: Path, without: str = "", **changed: dict) -> Path:
    """A copy of the kept results, but for one file, and with others changed."""
    for file in results.RESULTS.glob("*.json"):
        if file.stem != without:
            text = json.dumps(changed[file.stem]) if file.stem in changed else file.read_text(encoding="utf-8")
            (folder / file.name).write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", ["structures", "scale-1000000", "macro", "keepalive", "nats"])
def test_what_the_model_needs_and_is_not_kept_is_named_with_its_command(tmp_path, name):
    with pytest.raises(Missing, match=rf"{name}\.json is not there: `(python|make) bench[-/].+` makes it"):
        model.costs(kept_in(tmp_path, name))


@pytest.mark.parametrize("tool", ["auth.py", "capacity kernel", "presence.py"])
def test_what_only_the_page_needs_has_a_row_that_says_how_to_make_it(tmp_path, tool):
    name = tool.removesuffix(".py").split()[-1]
    text = sizing.tables(kept_in(tmp_path, name))["measured"]
    assert f"| {name} | no results are kept | `python bench/{tool} --json bench/results/{name}.json` |" in text


def test_costs_are_the_medians_of_the_files(tmp_path):
    keepalive = results.read("keepalive")
    keepalive["forms"]["keepalive"]["us"] = [1.0, 2.0, 9.0]
    nats = results.read("nats")
    nats["forms"] = {f"--subscriptions {n}": {"bytes": [n / 4], "us": [1.0]} for n in (20, 10)}
    found = model.costs(kept_in(tmp_path, keepalive=keepalive, nats=nats))
    assert found.ping.low == pytest.approx(2e-6)
    assert found.subscription == 5.0
    million = results.read("scale-1000000")["scale"]
    assert found.kernel == million["many"]["kernel_bytes"]
    assert found.ping.high == pytest.approx(million["many"]["ping_us"] / 1e6)


def test_a_rooms_bytes_and_those_for_each_loop_follow_from_both_kinds_of_crowds(tmp_path):
    def crowd(room: float) -> dict:
        member = "join one room of all, as the only one: bytes"
        return {"open: bytes": [96.0], "join a room of 10: bytes": [room], member: [8.0]}

    forms = {"--conns 100000 --loops 1": crowd(33.0), "--conns 1000000 --loops 1": crowd(32.0)}
    forms |= {"--conns 10000 --loops 56": crowd(99.0), "--conns 100000 --loops 56": crowd(69.0)}
    kept = {**results.read("structures"), "forms": forms}
    found = model.costs(kept_in(tmp_path, structures=kept))
    assert (found.connection, found.member) == (96.0, 8.0)
    assert found.room_on_loop == pytest.approx((690 - 330) / 9)
    assert found.room == pytest.approx(330 - 40 - 80)


def test_each_figure_of_the_page_has_a_command_a_date_and_a_commit():
    rows = [line.split(" | ") for line in sizing.measured(results.RESULTS).splitlines()[2:]]
    assert len(rows) > 20
    for row in rows:
        assert len(row) == 4
        assert row[2].startswith("`"), row
        assert re.fullmatch(r"(20\d\d-\d\d-\d\d, `[^`]+`(; )?)+ \|", row[3]), row
