"""What `doctor` calculates, for machines that are made up."""

import math
import random
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from signal_py.capacity import (
    CONNECTION,
    KERNEL,
    KERNEL_V1,
    Bound,
    Machine,
    Plan,
    first_of,
    fix_of,
    limits_of,
    own_descriptors,
    shown,
    size,
)
from signal_py.cli.doctor import report_of

GIB = 1 << 30
MOST = 10**8
GROUPS = st.lists(
    st.builds(
        Bound,
        st.text(max_size=3),
        st.integers(0, 100 * GIB),
        st.integers(0, 10 * GIB),
        st.sampled_from(["", "/sys/x"]),
        st.sampled_from([KERNEL, KERNEL_V1]),
    ),
    max_size=3,
    unique_by=lambda bound: bound.name,
)
MACHINES = st.builds(
    Machine,
    descriptors=st.integers(64, 10**7),
    descriptors_max=st.integers(64, 10**7),
    own_tables=st.booleans(),
    files=st.builds(Bound, st.just("files"), st.one_of(st.just(math.inf), st.integers(0, MOST)), st.integers(0, 10**6)),
    memory=GROUPS.map(tuple),
    address_space=st.one_of(st.just(math.inf), st.integers(0, 100 * GIB)),
    data=st.one_of(st.just(math.inf), st.integers(0, 100 * GIB)),
    conntrack=st.one_of(st.none(), st.builds(Bound, st.just("x"), st.integers(1, MOST), st.integers(0, 10**6))),
    tcp_memory=st.one_of(st.none(), st.builds(Bound, st.just("x"), st.integers(1, MOST), st.integers(0, 10**6))),
    ports=st.integers(1, 64512),
    somaxconn=st.integers(1, 10**5),
    processors=st.floats(0.1, 256),
)
PLANS = st.builds(
    Plan,
    loops=st.integers(1, 250),
    listeners=st.integers(1, 16),
    max_connections=st.integers(0, MOST),
    nats=st.booleans(),
    ping_interval=st.floats(0, 3600),
    only_local=st.booleans(),
)


@given(MACHINES, PLANS)
def test_the_number_is_the_least_of_the_limits(machine: Machine, plan: Plan) -> None:
    limits = limits_of(machine, plan)
    first = first_of(limits)
    refusing = [limit.connections for limit in limits if limit.effect != "slows"]
    assert first.connections == min(refusing) and limits[0] == first
    assert all(limit.connections >= 0 for limit in limits)
    assert len({limit.key for limit in limits}) == len(limits)


@given(MACHINES, PLANS, st.integers(1, MOST))
def test_raising_a_limit_moves_it(machine: Machine, plan: Plan, wanted: int) -> None:
    """Its command moves the limit to the number or above, and lowers no other limit by more than its own needs."""
    first = first_of(limits_of(machine, plan))
    assume(first.connections < wanted)
    fix = fix_of(first, wanted, machine, plan)
    after = {limit.key: limit.connections for limit in limits_of(fix.machine, fix.plan)}
    assert fix.command and after[first.key] >= wanted
    before = {limit.key: limit.connections for limit in limits_of(machine, plan) if limit.key != first.key}
    spare = 16 * plan.loops * fix.plan.listeners * 300  # descriptors of more listeners
    assert all(after[key] >= number - spare for key, number in before.items())


@given(MACHINES, PLANS, st.integers(1, MOST))
def test_all_limits_together_can_be_raised(machine: Machine, plan: Plan, wanted: int) -> None:
    """One after the other, each at most a few times."""
    for _ in range(40):
        first = first_of(limits_of(machine, plan))
        if first.connections >= wanted:
            return
        fix = fix_of(first, wanted, machine, plan)
        machine, plan = fix.machine, fix.plan
    raise AssertionError(f"{first} is still the first limit")


@given(MACHINES, PLANS, st.integers(0, MOST))
def test_the_report_has_a_command_for_each_limit_that_is_too_low(machine: Machine, plan: Plan, wanted: int) -> None:
    report = report_of(machine, plan, [], wanted)
    assert report.good == (report.first.connections >= wanted)
    for limit in report.limits:
        if wanted and limit.effect != "slows":
            assert bool(report.fixes.get(limit.key)) == (limit.connections < wanted)
    if not wanted and math.isfinite(report.first.connections) and report.first.connections > 0:
        assert report.fixes.get(report.first.key)


@pytest.mark.parametrize("loops", [1, 2, 7, 60])
def test_loops_fill_unevenly(loops: int) -> None:
    """The number at which the first loop is full, on the average of many simulated crowds: within 1 %."""
    room, draw, found = 2000, random.Random(7), []
    for _ in range(10):
        held = [0] * loops
        while max(held) < room:
            held[draw.randrange(loops)] += 1
        found.append(sum(held))
    plan = Plan(loops=loops)
    machine = Machine(descriptors=room + own_descriptors(plan))
    assert first_of(limits_of(machine, plan)).connections == pytest.approx(sum(found) / len(found), rel=0.01)


def test_each_control_group_counts() -> None:
    groups = (Bound("machine", 64 * GIB, 2 * GIB), Bound("outer", 8 * GIB, GIB), Bound("inner", 16 * GIB, 0, "/sys/x"))
    machine = Machine(memory=groups, descriptors=10**7, descriptors_max=10**7)
    assert first_of(limits_of(machine, Plan())).key == "memory outer"
    number = first_of(limits_of(machine, Plan())).connections
    assert number == pytest.approx(7 * GIB / (KERNEL + CONNECTION), rel=0.01)
    limits = {limit.key: limit for limit in limits_of(machine, Plan())}
    assert fix_of(limits["memory inner"], 10**7, machine, Plan()).command.startswith("echo ")
    assert "more nodes" in fix_of(limits["memory outer"], 10**7, machine, Plan()).command


def test_ports_count_only_for_clients_on_this_machine() -> None:
    machine = Machine(ports=100)
    assert first_of(limits_of(machine, Plan(only_local=True, listeners=2))).connections == 200
    assert "ports" not in {limit.key for limit in limits_of(machine, Plan())}


def test_a_group_that_is_full() -> None:
    machine = Machine(memory=(Bound("group", GIB, 2 * GIB),), conntrack=Bound("x", 5, 9))
    assert first_of(limits_of(machine, Plan())).connections == 0
    assert first_of(limits_of(replace(machine, memory=()), Plan())).key == "conntrack"


def test_how_numbers_are_shown() -> None:
    assert [shown(each) for each in (math.inf, 1234567, 5)] == ["unlimited", "1,234,567", "5"]
    assert [size(each) for each in (math.inf, 3 * GIB / 2, 1 << 20)] == ["unlimited", "1.5 GiB", "1 MiB"]
