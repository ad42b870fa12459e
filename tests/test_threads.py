"""Every kind of packet between threads has a row in docs/architecture/threads-and-ownership.md, and a test that floods
it, or a reason why there is none."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture" / "threads-and-ownership.md").read_text(encoding="utf-8")
NAME = re.compile(r"^ {4}((?:KIND|EVENT)_\w+) = \d+", re.MULTILINE)
FRAMED = "its cause, which the page names, waits for it: there is never a second one"

# The test that floods a kind, by file and name; or why there is none.
FLOODED = {
    "KIND_FRAME": "never posted",
    "KIND_TO": "tests/node/test_floods.py::test_receipts_wait_for_their_loop",
    "KIND_ROOM": "tests/cluster/test_presence_queries.py::test_a_full_mailbox_is_reported_to_its_watchers",
    "KIND_NEWS": "tests/cluster/test_presence_queries.py::test_a_full_mailbox_is_reported_to_its_watchers",
    "KIND_NATS": "tests/cluster/test_floods.py::test_presence_for_nats_is_bounded",
    "KIND_SYNC": "tests/node/test_floods.py::test_rooms_that_come_and_go_wait_for_the_link",
    "KIND_ASK": "tests/node/test_floods.py::test_queries_of_clients_are_one_for_all",
    "KIND_AWAIT": "tests/cluster/test_floods.py::test_very_many_that_await_nats_are_refused",
    "KIND_LOCAL_PEER": "tests/library/test_floods.py::test_joins_of_the_program_wait",
    "KIND_RECEIPT": "tests/cluster/test_floods.py::test_receipts_from_nats_are_bounded",
    "KIND_QUESTION": "tests/cluster/test_floods.py::test_remote_queries_are_bounded",
    "KIND_VERDICT": "tests/node/test_floods.py::test_verdicts_wait_for_their_tasks",
    "KIND_KICK": "tests/library/test_floods.py::test_orders_of_the_program_are_bounded",
    "KIND_INQUIRY": "tests/library/test_floods.py::test_orders_of_the_program_are_bounded",
    "KIND_SNAPSHOT": FRAMED,
    "KIND_STOP": FRAMED,
    "KIND_LISTEN": FRAMED,
    "KIND_RELOAD": FRAMED,
    "KIND_DIAL": FRAMED,
    "KIND_CONNECT": FRAMED,
    "KIND_EVENT": "by its codes",
    "EVENT_WANT": FRAMED,
    "EVENT_INFO": "docs/nats.md tells of its bound",
    "EVENT_UP": FRAMED,
    "EVENT_DOWN": FRAMED,
    "EVENT_TAKEN": FRAMED,
    "EVENT_NATS_ERROR": "tests/cluster/test_nats_info.py::test_endless_errors",
    "EVENT_LOG": FRAMED,
    "EVENT_FREED": "tests/node/test_memory_back.py::test_a_busy_engine_is_not_trimmed_again_and_again",
    "EVENT_ASK": "tests/node/test_floods.py::test_verdicts_wait_for_their_tasks",
    "EVENT_LISTED": "tests/library/test_floods.py::test_orders_of_the_program_are_bounded",
    "EVENT_CONNECTED": "tests/library/test_floods.py::test_hooks_that_are_too_slow_lose_events",
    "EVENT_DISCONNECTED": "tests/library/test_floods.py::test_hooks_that_are_too_slow_lose_events",
}


KINDS = ("base/kinds.pxd", "tables/codes.pxd")


def names() -> list[str]:
    """The kinds in the sources, in order."""
    sources = [(ROOT / "signal_core" / name).read_text(encoding="utf-8") for name in KINDS]
    return [name for source in sources for name in NAME.findall(source)]


def rows() -> list[list[str]]:
    """The cells of each row for a kind; the first is its name."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in PAGE.splitlines()
        if re.match(r"\| `(?:KIND|EVENT)_", line)
    ]


def test_each_kind_has_its_row() -> None:
    assert len(names()) > 25
    assert sorted(row[0].strip("`") for row in rows()) == sorted(names())


@pytest.mark.parametrize("row", rows(), ids=lambda row: str(row[0]))
def test_each_row_names_a_bound(row: list[str]) -> None:
    assert len(row) == 6 and row[3], row


def test_counters_of_the_page_are_counted() -> None:
    from signal_core.names import COUNTERS

    counted = {name for name, _, _ in COUNTERS}
    assert {name for row in rows() for name in re.findall(r"`(\w+)`", row[-1])} <= counted


def test_each_kind_is_flooded() -> None:
    assert sorted(FLOODED) == sorted(names())


@pytest.mark.parametrize("test", sorted({test for test in FLOODED.values() if "::" in test}))
def test_the_flood_is_there(test: str) -> None:
    file, _, name = test.partition("::")
    assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8")


def test_limits_of_the_page_are_those_of_the_source() -> None:
    source = (ROOT / "signal_core" / "base" / "limits.pxd").read_text(encoding="utf-8")
    shown = re.findall(r"(\d[\d,]*)[^(|.;`\d]*\(`([A-Z_]+)`\)", PAGE)
    assert len(shown) >= 3
    for number, name in shown:
        found = re.search(rf"^ {{4}}{name} = (\d+)(?: << (\d+))?", source, re.MULTILINE)
        if found:
            assert int(found[1]) << int(found[2] or 0) == int(number.replace(",", "")), name
