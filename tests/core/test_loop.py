"""How a loop frees dead connections."""

from signal_core import probe


def test_a_dead_connection_that_is_delayed_keeps_no_loop_awake() -> None:
    loop = probe.OneLoop(3)
    for slot in range(3):
        loop.delay(slot)
    loop.kill(1)
    assert loop.dead() == []
    loop.release()
    assert loop.dead() == [1]
    loop.kill(2)  # it waits for its turn
    loop.reap(1000)
    assert loop.dead() == [2]


def test_the_walk_over_dead_connections_is_bounded() -> None:
    """Those that are still in a list, so that they can't be freed, count as well."""
    loop = probe.OneLoop(12)
    for slot in range(12):
        loop.add(slot, 0)
        loop.kill(slot)
    assert loop.reap(5) == 5
    assert len(loop.dead()) == 12
