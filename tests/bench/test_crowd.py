"""A process full of connections without sockets: what the benchmarks of bench/capacity measure is what happens."""

import pytest

from signal_core import probe

CONNS = 3000
INTERVAL = 250
ROOMS_A_TURN = 4096
ENDS_A_TURN = 2048


@pytest.fixture(params=[1, 7, 40])
def crowd(request: pytest.FixtureRequest) -> probe.Crowd:
    crowd = probe.Crowd(CONNS, request.param)
    crowd.open()
    assert crowd.live == crowd.armed == CONNS
    return crowd


def ticks(crowd: probe.Crowd, loops: int, count: int) -> list[int]:
    """Pings of each tick, of all loops."""
    return [sum(crowd.tick(loop)["count"] for loop in range(loops)) for _ in range(count)]


def test_all_are_found_join_hear_and_go(crowd: probe.Crowd) -> None:
    assert crowd.lookup(2 * CONNS)["count"] == 2 * CONNS
    assert crowd.join(b"s", 10)["count"] == CONNS
    assert crowd.join(b"a", CONNS, each=True)["worst_ns"] > 0
    assert crowd.publish(b"a", 0)["count"] == CONNS
    assert crowd.publish(b"s", CONNS // 10 - 1)["count"] == 10
    crowd.rejoin(b"s", 10, CONNS)
    assert crowd.publish(b"s", 5)["count"] == 10
    assert crowd.close(CONNS)["count"] == CONNS
    assert crowd.live == crowd.armed == crowd.rooms == 0
    assert crowd.settle()["count"] >= CONNS // 10 + 1
    assert crowd.publish(b"a", 0)["count"] == 0


def test_each_is_a_user_of_its_own(crowd: probe.Crowd) -> None:
    assert crowd.identify(12, 0, 1000)["count"] == 1000
    assert crowd.identify(36, 1000, CONNS - 1000)["count"] == CONNS - 1000
    assert crowd.rooms == crowd.settle()["count"] == CONNS
    with pytest.raises(MemoryError):
        crowd.identify(12, CONNS, 1)
    assert crowd.close(CONNS)["count"] == CONNS
    assert crowd.live == crowd.rooms == 0


@pytest.mark.parametrize("loops", [1, 7])
@pytest.mark.parametrize("spread", [True, False])
def test_each_is_pinged_once_an_interval(loops: int, spread: bool) -> None:
    crowd = probe.Crowd(CONNS, loops)
    crowd.open(spread)
    for _ in range(2):
        pings = ticks(crowd, loops, INTERVAL)
        assert sum(pings) == CONNS
        assert max(pings) < 2 * CONNS / INTERVAL if spread else max(pings) == CONNS
    assert crowd.armed == CONNS


@pytest.mark.parametrize(("ms", "most"), [(1, 16), (5, 80), (40, 256)])
def test_long_turns_ping_as_many_as_short_ones(ms: int, most: int) -> None:
    """Of those that are due at one moment each millisecond has 16, however long turns are; a turn has 256 at most."""
    crowd = probe.Crowd(CONNS)
    crowd.open(False)
    tick = max((crowd.tick(ms=ms) for _ in range(INTERVAL)), key=lambda cost: cost["count"])
    assert (tick["count"], tick["most"]) == (CONNS, most)
    assert tick["turns"] == 1 + -(-(CONNS - 16) // most)


def test_no_turn_frees_all_rooms_that_went() -> None:
    """Nor loses one: each turn but the last frees as many as it may."""
    crowd = probe.Crowd(3 * ROOMS_A_TURN)
    crowd.open()
    crowd.join(b"s", 1)
    crowd.settle()
    grown = crowd.reclaim()["count"]
    assert grown == 1
    crowd.close(3 * ROOMS_A_TURN)
    assert crowd.settle()["count"] == 3 * ROOMS_A_TURN
    assert crowd.reclaim()["count"] == 4
    assert crowd.reclaim()["count"] == 1


@pytest.mark.parametrize(("conns", "rooms"), [(CONNS, 4), (50, 240)])
def test_no_turn_ends_all_that_died(conns: int, rooms: int) -> None:
    """A turn ends a bounded number of memberships and connections, also of one that is in hundreds of rooms."""
    crowd = probe.Crowd(conns)
    crowd.open()
    for kind in range(1, rooms + 1):
        crowd.join(bytes([kind]), 5)
    turns = crowd.die()
    assert max(memberships for memberships, _ in turns) == ENDS_A_TURN
    assert sum(memberships for memberships, _ in turns) == conns * rooms
    assert sum(ended for _, ended in turns) == conns == conns + crowd.live
    assert len(turns) == -(-conns * rooms // ENDS_A_TURN)


def test_who_hears_of_an_end_costs_a_turn_more() -> None:
    """Each 64 who listen in a room cost as much as a membership does."""
    conns, rooms = 640, 20
    crowd = probe.Crowd(conns)
    crowd.open()
    for kind in range(1, rooms + 1):
        crowd.join(bytes([kind]), conns, listens=True)
    turns = crowd.die()
    assert sum(memberships for memberships, _ in turns) == conns * rooms
    assert sum(ended for _, ended in turns) == conns == conns + crowd.live
    assert turns[0][0] < ENDS_A_TURN / 8
    assert len(turns) > 4 * conns * rooms / ENDS_A_TURN


def test_subscriptions_are_kept_while_nats_is_away() -> None:
    crowd = probe.Crowd(CONNS, 3, True)
    crowd.open()
    crowd.join(b"s", 10)
    assert crowd.settle()["count"] == CONNS // 10
    assert crowd.lose_nats()["count"] == 1
    with pytest.raises(ValueError, match="link"):
        probe.Crowd(1).lose_nats()
