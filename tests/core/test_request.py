"""The request line: hosts, paths, its longest length, and the rooms of a query."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handshakes import accepted, plain, request, status_of
from signal_core import probe

MAX_LINE = 8192

# -- hosts --


@pytest.mark.parametrize(
    "host",
    [
        "a",
        "a.example",
        "a.example.",
        "A_b-c~d",
        "a:8080",
        "a:",
        "a:0",
        "a:65535",
        "127.0.0.1:80",
        "[::1]",
        "[::1]:8080",
        "[2001:DB8::7]:",
        "[::ffff:127.0.0.1]",
        "[fe80::1%eth0]:8080",
        "[fe80::1%25eth0]",
        "xn--bcher-kva.example",
        "b%C3%BCcher.example",
        "a!$&'()*+,;=b",
    ],
)
def test_good_hosts(host):
    assert probe.host_valid(host.encode())
    accepted(request(Host=host))
    accepted(request(f"GET http://{host}/ HTTP/1.1"))


@pytest.mark.parametrize(
    "host",
    [
        "",
        ":80",
        "a b",
        "a\tb",
        "user@a",
        "a/b",
        "a?b",
        "a#b",
        "a:b",
        "a:99999",
        "a:65536",
        "a:-1",
        "a:80:80",
        "a:18446744073709551617",
        "::1",
        "[::1",
        "::1]",
        "[]",
        "[a]",
        "[::1]x",
        "[::1]:x",
        "[::1%]",
        "[::1%a b]",
        "[" + "1" * 60 + "]",
        "a%",
        "a%2",
        "a%zz",
        "a\\b",
        "a<b>",
        "a|b",
        "\xe9",
        "a\x00",
    ],
)
def test_bad_hosts(host):
    assert not probe.host_valid(host.encode("latin-1"))
    assert status_of(request(Host=host)) == 400


@given(st.ip_addresses(), st.one_of(st.none(), st.integers(0, 65535)))
def test_every_ip_address_is_a_host(address, port):
    host = (f"[{address}]" if address.version == 6 else str(address)) + ("" if port is None else f":{port}")
    assert probe.host_valid(host.encode())


@given(st.binary(max_size=60))
def test_a_host_has_only_the_characters_of_one(text):
    if probe.host_valid(text):
        assert all(0x21 <= byte <= 0x7E and byte not in b'"#/<>?@\\^`{|}' for byte in text)


# -- paths --


@pytest.mark.parametrize(
    ("path", "target", "status"),
    [
        (b"", "/", 0),
        (b"", "", 400),
        (b"/ws", "/ws", 0),
        (b"/ws", "/ws/", 0),
        (b"/ws", "/ws?room=a", 0),
        (b"/ws", "http://a/ws", 0),
        (b"/ws", "/", 404),
        (b"/ws", "/ws2", 404),
        (b"/ws", "/ws//", 404),
        (b"/ws", "/WS", 404),
        (b"/ws", "/ws/healthz", 404),
        (b"/a/b", "/a/b/", 0),
        (b"/a/b", "/a", 404),
    ],
)
def test_path(path, target, status):
    assert probe.upgrade_parse(request(f"GET {target} HTTP/1.1"), path=path)[1]["status"] == status


def test_health_checks_are_at_the_root_and_below_the_path():
    for path, targets in ((b"", ["/healthz"]), (b"/ws", ["/healthz", "/ws/healthz", "/ws/healthz?x"])):
        for target in targets:
            for method, status in (("GET", 200), ("HEAD", 200), ("OPTIONS", 204), ("POST", 405)):
                data = plain(f"{method} {target} HTTP/1.1")
                assert probe.upgrade_parse(data, path=path)[1]["status"] == status
    assert probe.upgrade_parse(plain("GET /ws/healthz HTTP/1.1"))[1]["status"] == 404


# -- the request line --


@pytest.mark.parametrize("most", [64, 8000, MAX_LINE])
@pytest.mark.parametrize("before", [b"", b"\r\n"])
def test_longest_request_line(most, before):
    """Neither its CRLF nor an empty line before it counts. The first byte too many gets 414."""
    line = "GET /?room=" + "a" * (most - len("GET /?room= HTTP/1.1")) + " HTTP/1.1"
    good, longer = (before + request(line.replace("a", more, 1)) for more in ("a", "aa"))
    assert probe.upgrade_parse(good, max_line=most)[0] == len(good)
    assert probe.upgrade_parse(longer, max_line=most)[1]["status"] == 414
    seen = len(before) + most + 1
    assert probe.upgrade_parse(longer[: seen - 1], max_line=most) == (-2, None)
    for n in range(seen, seen + 4):
        assert probe.upgrade_parse(longer[:n], max_line=most)[1]["status"] == 414
        assert probe.upgrade_parse(longer[:n], n - 1, max_line=most)[1]["status"] == 414


def test_a_long_line_gets_414_even_if_the_head_is_too_long():
    assert status_of(request("GET /" + "a" * MAX_LINE + " HTTP/1.1")) == 414
    assert probe.upgrade_parse(b"GET /" + b"a" * MAX_LINE)[1]["status"] == 414


def test_a_short_bad_line_before_a_long_header_gets_400():
    assert probe.upgrade_parse(b"GET\r\nX: " + b"a" * 5000)[1]["status"] == 400


@given(st.data())
def test_a_request_line_with_one_byte_changed(data):
    """Whole and in two pieces, the result is the same. Only a target of visible ASCII without '#' is still good."""
    line = b"GET /?room=a HTTP/1.1"
    at, byte = data.draw(st.integers(0, len(line) - 1)), data.draw(st.integers(0, 255))
    whole = line[:at] + bytes([byte]) + line[at + 1 :] + request()[len(b"GET / HTTP/1.1") :]
    cut = data.draw(st.integers(0, len(whole)))
    result = probe.upgrade_parse(whole)
    assert probe.upgrade_feed([whole[:cut], whole[cut:]]) == result
    if result[1]["status"] == 0:
        assert (4 <= at <= 11 and 0x21 <= byte <= 0x7E and byte != 0x23) or line[at] == byte or at == len(line) - 1


# -- rooms in the query --


@pytest.mark.parametrize(
    ("query", "rooms"),
    [
        (b"", []),
        (b"room=lobby&room=b", [b"lobby", b"b"]),
        (b"token=x&room=a&unknown=y&flag&&room=b&", [b"a", b"b"]),
        (b"room=a%2Eb+c%20d%c3%a9", [b"a.b c d\xc3\xa9"]),
        (b"room=a=b", [b"a=b"]),
        (b"rooms=a&xroom=b&Room=c&roo=d", []),
        (b"room=", [-1]),
        (b"room", [-1]),
        (b"room=a&room=%", [b"a", -1]),
        (b"room=a%4", [-1]),
        (b"room=a%4&b", [-1]),
        (b"room=a%4g", [-1]),
        (b"room=a%g4", [-1]),
        (b"room=" + b"a" * 128, [b"a" * 128]),
        (b"room=" + b"%61" * 128, [b"a" * 128]),
        (b"room=" + b"a" * 129, [-1]),
        (b"room=" + b"%61" * 129, [-1]),
    ],
)
def test_rooms_of_a_query(query, rooms):
    assert probe.query_rooms(query) == rooms


def percent(name: bytes, spell: list[int]) -> bytes:
    """A name, percent-encoded; `spell` chooses among the spellings of each byte."""
    out = b""
    for i, byte in enumerate(name):
        how = spell[i % len(spell)] if spell else 0
        if how == 0 and (chr(byte).isalnum() and byte < 128):
            out += bytes([byte])
        else:
            out += b"+" if how == 1 and byte == 0x20 else (b"%%%02X" if how == 2 else b"%%%02x") % byte
    return out


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=5), st.lists(st.integers(0, 3), max_size=7))
def test_rooms_are_decoded(names, spell):
    query = b"&x=1&".join(b"room=" + percent(name, spell) for name in names)
    assert probe.query_rooms(query) == names


@given(st.binary(max_size=60).map(lambda data: b"room=" + data))
def test_any_query_has_rooms_within_the_bound(query):
    rooms = probe.query_rooms(query, 16)
    assert all(room == -1 or 1 <= len(room) <= 16 for room in rooms)
    assert -1 not in rooms[:-1]
