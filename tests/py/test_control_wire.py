"""Requests and answers of the control plane: any bytes are parsed or refused with WireError."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.micro.service import SEMVER_REGEX

from signal_core import probe
from signal_py.control import wire
from signal_py.control.answers import node_of
from signal_py.control.wire import (
    COMMANDS,
    CURSOR,
    NAME,
    PEER,
    WireError,
    answer,
    command_of,
    limit_of,
    names_of,
    parse_answer,
    parse_ping,
    parse_request,
    request,
    semver,
    subject,
    text_of,
    whom_of,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=4,
)
FIELDS = st.dictionaries(
    st.sampled_from(["v", "command", "limit", "after", "names", "room", "peer", "user", "node", "metadata", "x"]), JSON
)
ROOM_NAMES = st.from_regex(r"[!-)+-=?-~]{1,6}(\.[!-)+-=?-~]{1,6})*", fullmatch=True)


def parsed(parse: Any, *words: object) -> Any:
    """The result of a parser; None if it raises WireError. Any other exception fails the test."""
    try:
        return parse(*words)
    except WireError as error:
        assert error.code and str(error)
        return None


@given(st.binary() | JSON.map(lambda found: json.dumps(found).encode()) | FIELDS.map(lambda f: json.dumps(f).encode()))
def test_any_bytes(data: bytes) -> None:
    for command in (*COMMANDS, "dance"):
        fields = parsed(parse_request, command, data)
        assert fields is None or (fields["command"] == command and fields["v"] == 1)
    found = parsed(parse_answer, data)
    assert found is None or re.fullmatch("[a-z0-9]{1,16}", found["node"])
    node = node_of(data, "signal")
    assert node is None or re.fullmatch("[a-z0-9]{1,16}", node.node)
    about = parsed(parse_ping, data)
    assert about is None or all(isinstance(value, str) for value in about.values())


@given(
    st.dictionaries(
        st.sampled_from(["node", "prefix", "control", "listen", "version", "x"]),
        st.text() | st.sampled_from(["signal", "k7", "1", "9" * 5000, "²", "ws://x,,"]) | st.none(),
    )
)
def test_any_metadata_of_a_service(about: dict[str, Any]) -> None:
    node = node_of(json.dumps({"metadata": about}).encode(), "signal")
    if node is not None:
        assert node.node == about["node"] and about["prefix"] == "signal" and 0 <= node.control < 10**9


@given(FIELDS)
def test_any_fields(fields: dict[str, Any]) -> None:
    limit = parsed(limit_of, fields)
    assert limit is None or 1 <= limit <= wire.MAX_PAGE
    names = parsed(names_of, fields)
    assert names is None or all(NAME.fullmatch(name) for name in names)
    whom = parsed(whom_of, fields)
    assert whom is None or sum(map(bool, whom)) == 1
    for name, pattern in (("after", CURSOR), ("room", NAME), ("peer", PEER)):
        text = parsed(text_of, fields, name, pattern)
        assert not text or pattern.fullmatch(text)


@given(st.sampled_from(COMMANDS), st.dictionaries(st.text().filter(lambda name: name not in ("v", "command")), JSON))
def test_a_request_is_parsed(command: str, fields: dict[str, Any]) -> None:
    """Also with unknown fields. Fields that are None are not sent."""
    sent = json.loads(json.dumps({name: value for name, value in fields.items() if value is not None}))
    data = json.dumps({"v": 1, "command": command, **sent}).encode()
    assert parsed(parse_request, command, data) is not None
    assert json.loads(request(command, room="a", after=None)) == {"v": 1, "command": command, "room": "a"}


@given(st.from_regex(r"[a-z0-9]{1,16}", fullmatch=True), st.sampled_from(COMMANDS))
def test_no_answer_is_a_request(node: str, command: str) -> None:
    """A node obeys no answer of a node."""
    for data in (answer(node, rooms={}, next=""), answer(node, error="unavailable", text="x"), b""):
        assert parsed(parse_request, command, data) is None
    assert parse_answer(answer(node, connections=1))["node"] == node


@given(ROOM_NAMES | st.text(alphabet=st.characters(max_codepoint=255), max_size=140))
def test_names_are_those_of_rooms(name: str) -> None:
    assert bool(NAME.fullmatch(name)) == bool(probe.room_valid(name.encode("latin-1")))


@given(st.text(max_size=20) | st.from_regex(r"\d{1,3}(\.\d{1,3}){0,3}((a|rc|\.dev|\+)\w{0,5})?", fullmatch=True))
def test_versions_are_those_of_micro_services(version: str) -> None:
    assert SEMVER_REGEX.match(semver(version)), semver(version)


@pytest.mark.parametrize(
    "version, made",
    [("0.1.0", "0.1.0"), ("1.2", "1.2.0"), ("0.2.0.dev1", "0.2.0+dev1"), ("0+unknown", "0.0.0+unknown"), ("", "0.0.0")],
)
def test_versions(version: str, made: str) -> None:
    assert semver(version) == made


@given(st.sampled_from(["signal", "a.b-c", "x_1.y"]), ROOM_NAMES.map(lambda name: name.replace(".", "")))
def test_subjects(prefix: str, command: str) -> None:
    assert command_of(subject(prefix, command), prefix) == command_of(subject(prefix, command, "k7"), prefix) == command
