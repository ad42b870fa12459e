"""A loop's rooms against a dict of sets, and the two sides of each membership against each other."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signal_core import probe

CONNS = 12
NAMES = [b"room%d" % i for i in range(40)]
steps = st.lists(st.tuples(st.booleans(), st.integers(0, CONNS - 1), st.sampled_from(NAMES)), max_size=150)


def agree(rooms: probe.Rooms, model: dict[bytes, set[int]]) -> None:
    rooms.check()
    assert rooms.count == len(model)
    for name in NAMES:
        members = rooms.members(name)
        if name not in model:
            assert members is None
            continue
        assert len(members) == len(set(members))
        assert set(members) == model[name]
    for slot in range(CONNS):
        assert sorted(rooms.rooms_of(slot)) == sorted(name for name in model if slot in model[name])


def play(rooms: probe.Rooms, model: dict[bytes, set[int]], joins: bool, slot: int, name: bytes) -> None:
    """Joins or leaves in both; they must agree."""
    was_member = slot in model.get(name, ())
    if joins:
        assert rooms.join(slot, name) == (not was_member)
        model.setdefault(name, set()).add(slot)
        return
    assert rooms.leave(slot, name) == was_member
    if was_member:
        model[name].remove(slot)
        if not model[name]:
            del model[name]


@pytest.mark.parametrize("hash_mask", [0, 3, 0xFFFFFFFF])
@settings(max_examples=60, deadline=None)
@given(steps=steps)
def test_joins_and_leaves(hash_mask: int, steps: list[tuple[bool, int, bytes]]) -> None:
    """With names that all have the same hash, that share four hashes, and that differ."""
    rooms = probe.Rooms(CONNS, hash_mask)
    model: dict[bytes, set[int]] = {}
    for joins, slot, name in steps:
        play(rooms, model, joins, slot, name)
        agree(rooms, model)


@pytest.mark.parametrize("hash_mask", [7, 0xFFFFFFFF])
@settings(max_examples=20, deadline=None)
@given(order=st.permutations([(slot, name) for slot in range(CONNS) for name in NAMES]))
def test_all_join_all_rooms_and_leave_them(hash_mask: int, order: list[tuple[int, bytes]]) -> None:
    """Fills every array to its largest size and empties it, in two orders."""
    rooms = probe.Rooms(CONNS, hash_mask)
    model: dict[bytes, set[int]] = {}
    for joins, pairs in ((True, order), (False, order[::2] + order[1::2])):
        for slot, name in pairs:
            play(rooms, model, joins, slot, name)
        agree(rooms, model)
    assert rooms.count == 0


@pytest.mark.parametrize("hash_mask", [255, 0xFFFFFFFF])
def test_rooms_come_and_go_while_the_index_grows(hash_mask: int) -> None:
    """Joins 2000 rooms, and leaves one after every third, also while the index grows. All that remain are found."""
    rooms = probe.Rooms(1, hash_mask)
    there: dict[int, None] = {}
    order = random.Random(hash_mask)
    for number in range(2000):
        assert rooms.join(0, b"r%d" % number)
        there[number] = None
        if number % 3 == 0:
            gone = order.choice(list(there))
            assert rooms.leave(0, b"r%d" % gone)
            del there[gone]
        for seen in (number, number // 2, number // 3, number - 7):
            assert (rooms.members(b"r%d" % seen) == [0]) == (seen in there)
    assert rooms.count == len(there)
    rooms.check()
    for number in list(there):
        assert rooms.leave(0, b"r%d" % number)
    assert rooms.count == 0
