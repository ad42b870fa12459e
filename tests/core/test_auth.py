"""Rights, patterns, claims and tokens: the parts alone, against what Python makes of the same."""

import base64
import fnmatch
import ipaddress
import re
import time
from typing import Any
from urllib.parse import unquote_plus

import jwt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from minted import SECRET, token
from signal_core import probe
from signal_py.auth.grants import (
    PATTERN,
    RIGHTS_MAX,
    TOKEN,
    USER,
    Grant,
    GrantError,
    grant_of,
    verdict_of,
)
from signal_py.auth.jwt import TokenError, verifier_of
from signal_py.base.errors import ConfigError
from signal_py.base.hostport import redacted
from signal_py.config.load import make_config

WORD = st.text("abc", min_size=1, max_size=3)
ROOM = st.lists(WORD, min_size=1, max_size=4).map(".".join)
PART = st.one_of(WORD, st.just("*"))
SHAPE = st.builds(
    lambda parts, tail: ".".join([*parts, *tail]),
    st.lists(PART, min_size=1, max_size=4),
    st.sampled_from([[], [">"]]),
)
PATTERNS = st.one_of(st.none(), st.lists(st.one_of(SHAPE, st.just(">")), max_size=5))


def oracle(pattern: str, room: str) -> bool:
    """By a regular expression."""
    parts = [{"*": r"[^.]+", ">": r".+"}.get(part, re.escape(part)) for part in pattern.split(".")]
    return re.fullmatch(r"\.".join(parts), room) is not None


def rights_of(grant: Grant) -> bytes:
    return verdict_of(0, grant, 0.0)[3]


@given(PATTERNS, PATTERNS, st.booleans(), st.lists(ROOM, max_size=5))
@example(["a.>"], ["a"], True, ["a", "a.b", "a.b.c", "ab"])
@example([">"], [], True, ["a"])
def test_patterns_match_as_nats_does(sub: list[str] | None, pub: list[str] | None, to: bool, rooms: list[str]) -> None:
    text = rights_of(Grant(sub=sub, pub=pub, to=to))
    if sub is None and pub is None and to:
        assert text == b""
        return
    assert probe.rights_are_whole(text)
    for room in rooms:
        wanted = tuple(
            patterns is None or any(oracle(pattern, room) for pattern in patterns) for patterns in (sub, pub)
        )
        assert probe.rights_allow(text, room.encode()) == wanted


@given(st.binary(max_size=40))
def test_only_whole_rights_are_taken(text: bytes) -> None:
    def whole() -> bool:
        if len(text) < 9:
            return False
        at = 9
        for _ in range(int.from_bytes(text[5:7], "big") + int.from_bytes(text[7:9], "big")):
            if at >= len(text):
                return False
            at += 1 + text[at]
        return at == len(text)

    assert probe.rights_are_whole(text) == whole()


NAMES = st.text(st.characters(min_codepoint=0x1F, max_codepoint=0x80), max_size=12)


@given(NAMES)
@example("a.b")
@example(".")
@example("a..b")
def test_a_user_is_what_a_room_can_be(name: str) -> None:
    assert (USER.fullmatch(name) is not None) == bool(probe.room_valid(name.encode("latin-1")))


@given(NAMES)
@example("*")
@example("a.*.>")
@example(">.a")
def test_patterns_are_rooms_with_wildcards(text: str) -> None:
    parts = text.split(".")
    good = all(
        part == "*" or (part == ">" and i == len(parts) - 1) or re.fullmatch(TOKEN, part)
        for i, part in enumerate(parts)
    )
    assert (PATTERN.fullmatch(text) is not None) == bool(good)


# -- claims --


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("a*.> ", max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["sub", "pub", "x"]), inner),
    max_leaves=6,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(["sub", "rooms", "to", "max_rooms"], JSON)))
@example({"rooms": None})
@example({"rooms": {"sub": None}})
@example({"max_rooms": None})
def test_claims_of_any_form(claims: dict[str, Any]) -> None:
    """They are taken, and then are of the form that is told; or they are refused. Nothing else is raised."""

    def patterns_good(value: Any) -> bool:
        return isinstance(value, list) and all(isinstance(each, str) and PATTERN.fullmatch(each) for each in value)

    def rooms_good(value: Any) -> bool:
        if isinstance(value, dict):
            return set(value) <= {"sub", "pub"} and all(map(patterns_good, value.values()))
        return patterns_good(value)

    good = (
        ("sub" not in claims or (isinstance(claims["sub"], str) and USER.fullmatch(claims["sub"]) is not None))
        and ("rooms" not in claims or rooms_good(claims["rooms"]))
        and isinstance(claims.get("to", True), bool)
        and ("max_rooms" not in claims or (type(claims["max_rooms"]) is int and claims["max_rooms"] >= 0))
    )
    try:
        _, status, user, rights, life = verdict_of(7, grant_of(claims), time.time())
    except GrantError:
        assert not good
        return
    assert good and (status, life) == (0, 0)
    assert user.decode() == (claims.get("sub") or "")
    assert rights == b"" or probe.rights_are_whole(rights)


def test_rights_are_bounded() -> None:
    patterns = ["x" * 99] * (RIGHTS_MAX // 100 - 1)
    assert probe.rights_are_whole(rights_of(Grant(sub=patterns)))
    with pytest.raises(GrantError):
        rights_of(Grant(sub=[*patterns, *patterns[:2]]))


@pytest.mark.parametrize(
    ("expires", "life"),
    [
        (None, 0),
        (1000.0, 1),
        (999.0, 1),
        (1001.5, 1500),
        (1000.0001, 1),
        (1e300, 0),
        (float("inf"), 0),
        (10**400, 0),
        (-(10**400), 1),
        (float("-inf"), 1),
    ],
)
def test_how_long_a_grant_lasts(expires: float | None, life: int) -> None:
    assert verdict_of(0, Grant(expires=expires), 1000.0)[4] == life


# -- tokens as they come --


@given(st.binary(max_size=60))
def test_base64url(data: bytes) -> None:
    text = base64.urlsafe_b64encode(data).rstrip(b"=")
    good = data and all(0x21 <= byte <= 0x7E for byte in data)
    if good:
        assert probe.token_decode("protocol", text) == data
    elif data:
        assert probe.token_decode("protocol", text) is None


@given(st.text("Az09-_+/=.~ ", max_size=12))
def test_what_is_no_base64url(text: str) -> None:
    decoded = probe.token_decode("protocol", text.encode())
    if not re.fullmatch(r"[A-Za-z0-9_-]*", text) or len(text) % 4 == 1:
        assert decoded is None


@given(st.text("aZ9.-_ %+é", max_size=12))
def test_a_token_of_a_query(text: str) -> None:
    raw = text.encode()
    escaped = "".join(f"%{byte:02X}" if byte in b"%+ " or byte > 0x7E else chr(byte) for byte in raw)
    wanted = raw if all(0x21 <= byte <= 0x7E for byte in raw) else None
    assert unquote_plus(escaped) == text
    assert probe.token_decode("query", escaped.encode()) == wanted


# -- origins and addresses --


HOST = st.lists(st.text("ab-", min_size=1, max_size=3), min_size=1, max_size=4).map(".".join)


@given(HOST, HOST, st.sampled_from(["", ":1"]), st.booleans(), st.booleans())
def test_wildcard_origins(host: str, base: str, port: str, below: bool, loud: bool) -> None:
    origin = f"https://{host}.{base}{port}" if below else f"https://{host}{port}"
    rule = f"https://*.{base}{port}"
    wanted = fnmatch.fnmatchcase(origin, rule)
    assert probe.origin_matches(rule.encode(), (origin.upper() if loud else origin).encode()) == wanted
    assert probe.origin_matches(f"https://{host}".encode(), f"https://{host}".encode())


@given(st.one_of(st.ip_addresses(), st.text("0123456789abcdef.:[]", max_size=20)), st.booleans())
def test_addresses(address: Any, port: bool) -> None:
    text = str(address)
    try:
        parsed = ipaddress.ip_address(text)
    except ValueError:
        return
    packed = parsed.packed if parsed.version == 6 else bytes(10) + b"\xff\xff" + parsed.packed
    shown = f"[{text}]:443" if port and parsed.version == 6 else f"{text}:443" if port else text
    assert probe.address_parse(shown.encode()) == packed


@pytest.mark.parametrize("text", ["", "x", "1.2.3", "1.2.3.4.5", "[::1", ":", "::g", "1.2.3.4:x:y", "a" * 60])
def test_no_addresses(text: str) -> None:
    assert probe.address_parse(text.encode()) is None


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("ws://h/?token=abc", "ws://h/?token=***"),
        ("ws://h/?room=a&token=abc&x=1", "ws://h/?room=a&token=***&x=1"),
        ("ws://h/?room=a", "ws://h/?room=a"),
        ("ws://h/?mytoken=a", "ws://h/?mytoken=a"),
    ],
)
def test_tokens_in_urls_are_not_shown(url: str, shown: str) -> None:
    assert redacted(url) == shown


# -- the verifier --


def verifier(**more: object) -> Any:
    settings: dict[str, object] = {"auth": "jwt", "auth-key": SECRET} | more
    return verifier_of(make_config(settings, {name: name for name in settings}))


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("ftp://host/keys?key=secret", "ftp://host/keys can't be used: its scheme is not http, https or file"),
        (
            "https://ann:secret@host/keys",
            "https://host/keys can't be used: it has a user name, which would not be sent",
        ),
        (
            "https://ann:s@secret@host/keys?secret",
            "https://host/keys can't be used: it has a user name, which would not be sent",
        ),
        ("https:/host/keys?key=secret", "https:/host/keys can't be used: No such file or directory"),
    ],
)
def test_what_a_jwks_url_hides_is_not_told(place: str, told: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        verifier(**{"auth-key": "", "auth-jwks": place})
    assert told in str(wrong.value)
    assert "secret" not in str(wrong.value)


def test_what_a_token_grants() -> None:
    now = int(time.time())
    given_token = token("ann", rooms={"sub": ["a"]}, to=False, max_rooms=3, ttl=None, exp=now + 9)
    granted = verifier(**{"auth-leeway": 4}).grant(given_token.encode())
    assert granted == Grant("ann", ["a"], [], False, 3, now + 13)
    assert verifier().grant(token(ttl=None).encode()) == Grant()


@given(st.binary(max_size=60) | st.text(".abAB09-_", max_size=40).map(str.encode))
def test_no_token_breaks_the_verifier(text: bytes) -> None:
    with pytest.raises(TokenError):
        verifier().grant(text)


@pytest.mark.parametrize("part", ["[" * 3000, '{"alg":' * 1500])
def test_a_token_that_is_nested_deeply_is_only_refused(part: str) -> None:
    """It is the client's fault, and no failure of the node."""
    head = base64.urlsafe_b64encode(part.encode()).decode().rstrip("=")
    with pytest.raises(TokenError):
        verifier().grant(f"{head}.e30.c2ln".encode())


def test_an_end_beyond_all_time() -> None:
    assert verifier().grant(token("ann", ttl=None, exp=10**30).encode()).expires == 1e30
    with pytest.raises(TokenError):
        verifier().grant(token("ann", ttl=None, exp=10**400).encode())


def test_an_audience_is_only_looked_at_where_it_is_asked_for() -> None:
    assert verifier().grant(token("ann", aud="x", iss="y").encode()).user == "ann"


def test_reasons_hold_nothing_of_the_token() -> None:
    for bad in (token("ann", ttl=-9), token("ann", key="x" * 40), jwt.encode({}, None, "none"), "a.b.c"):
        with pytest.raises(TokenError) as wrong:
            verifier().grant(bad.encode())
        assert not any(part in str(wrong.value) for part in bad.split(".") if len(part) > 3)
