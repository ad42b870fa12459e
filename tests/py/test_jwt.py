"""Verifying tokens: their headers and times (RFC 7515, RFC 7519), what they grant, and errors without secrets."""

import base64
import json
import math
import time
from typing import Any

import jwt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from minted import SECRET, token
from signal_py.auth.grants import Grant, GrantError, verdict_of
from signal_py.auth.jwt import TokenError, Verifier, described, verifier_of
from signal_py.base.errors import ConfigError
from signal_py.config.load import make_config

LEEWAY = 5.0
LONG = "9" * 400  # digits


def verifier(**more: object) -> Verifier:
    settings: dict[str, object] = {"auth": "jwt", "auth-key": SECRET} | more
    return verifier_of(make_config(settings, {name: name for name in settings}))


VERIFIER = verifier()


def signed(claims: str | dict[str, Any], **header: Any) -> bytes:
    """A signed token with these claims, which need not be valid JSON."""
    head = json.dumps({"alg": "HS256", "typ": "JWT"} | header).encode()
    body = (claims if isinstance(claims, str) else json.dumps(claims)).encode()
    text = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (head, body))
    mac = jwt.get_algorithm_by_name("HS256").sign(text, SECRET.encode())
    return text + b"." + base64.urlsafe_b64encode(mac).rstrip(b"=")


def refusal(token: bytes) -> str:
    """The claim for which a token is refused; "" if it is valid."""
    try:
        VERIFIER.grant(token)
    except TokenError as wrong:
        return wrong.claim
    return ""


TIMES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=2),
    st.integers(-20, 20).map(lambda s: int(time.time()) + s),
    st.floats(-20, 20).map(lambda s: time.time() + s),
    st.integers(-20, 20).map(lambda s: str(int(time.time()) + s)),
)


@given(st.dictionaries(st.sampled_from(["exp", "nbf", "iat"]), TIMES))
@example({"exp": math.nan})
@example({"exp": math.inf})
@example({"nbf": -math.inf})
@example({"iat": True})
@example({"exp": None})
@example({"exp": "99999999999"})
def test_times_of_any_form(claims: dict[str, Any]) -> None:
    """A number is a time (RFC 7519 §2: NumericDate); everything else refuses the token."""
    before = time.time()
    claim = refusal(signed(claims))
    after = time.time()
    forms = {
        name: type(value) in (int, float) and (isinstance(value, int) or math.isfinite(value))
        for name, value in claims.items()
    }
    if not all(forms.values()):
        assert claim in [name for name, good in forms.items() if not good]
        return
    early = "nbf" in claims and claims["nbf"] > before + LEEWAY
    over = "exp" in claims and claims["exp"] + LEEWAY <= after
    if claim:
        assert (claim, early or over) in [("nbf", True), ("exp", True)]
    else:
        assert not ("nbf" in claims and claims["nbf"] > after + LEEWAY)
        assert not ("exp" in claims and claims["exp"] + LEEWAY <= before)


@pytest.mark.parametrize(
    ("claims", "claim"),
    [
        ('{"exp": 1e400}', "exp"), ('{"exp": -1e400}', "exp"), ('{"exp": NaN}', "exp"), ('{"exp": -1}', "exp"),
        ('{"exp": 0}', "exp"), ('{"exp": 9e9}', ""), ('{"exp": 9999999999.5}', ""), ('{"exp": "9999999999"}', "exp"),
        ('{"exp": {}}', "exp"), ('{"nbf": -5}', ""), ('{"nbf": 1e400}', "nbf"), ('{"nbf": "1"}', "nbf"),
        ('{"iat": 9e15}', ""), ('{"iat": -9}', ""), ('{"iat": "0"}', "iat"), ('{"iat": null}', "iat"),
        (f'{{"exp": {LONG}}}', "exp"), (f'{{"nbf": {LONG}}}', "nbf"), (f'{{"exp": {LONG * 20}}}', "token"),
        ("[" * 2000, "token"), ('{"a":' * 2000, "token"), ("[]", "token"), ("", "token"), ('{"sub": 5}', "sub"),
        ('{"sub": null}', "sub"),
    ],
)  # fmt: skip
def test_bad_claims_are_named(claims: str, claim: str) -> None:
    assert refusal(signed(claims)) == claim


@pytest.mark.parametrize(
    ("header", "claim"),
    [
        ({"crit": []}, "crit"), ({"crit": ["exp"]}, "crit"), ({"crit": ["b64"], "b64": False}, "crit"),
        ({"crit": None}, "crit"), ({"b64": False}, "b64"), ({"b64": None}, "b64"), ({"b64": True}, ""),
        ({"alg": "none"}, "alg"), ({"alg": "HS512"}, "alg"), ({"alg": "RS256"}, "alg"), ({"alg": ["HS256"]}, "alg"),
        ({"alg": None}, "alg"), ({"alg": "hs256"}, "alg"), ({"kid": 5}, "kid"), ({"kid": ["a"]}, "kid"),
        ({"kid": "x" * 4000}, ""), ({"typ": "at+jwt"}, ""), ({"typ": None}, ""), ({"typ": 5}, ""), ({"jku": "x:y"}, ""),
    ],
)  # fmt: skip
def test_bad_headers_are_named(header: dict[str, Any], claim: str) -> None:
    assert refusal(signed({}, **header)) == claim


def test_exp_may_be_a_float() -> None:
    end = time.time() + 100.75
    assert VERIFIER.grant(signed({"exp": end})).expires == end + LEEWAY


@given(st.binary(max_size=200) | st.text(max_size=60).map(lambda text: signed({}, kid=text, alg=text)))
def test_the_log_of_a_token_is_short_and_printable(token: bytes) -> None:
    for text in described(token).values():
        assert len(text) <= 67 and text.isascii() and text.isprintable()


@pytest.mark.parametrize("text", ["a\r\nforged line", "\x1b[2J", "é" * 100, "x" * 9000, "\ud800", "\\"])
def test_a_hostile_kid_in_the_log(text: str) -> None:
    (kid,) = [value for name, value in described(signed({}, kid=text)).items() if name == "kid"]
    assert len(kid) <= 67 and "\n" not in kid and "\x1b" not in kid


@pytest.mark.parametrize("user", ["", "a b", "x" * 128, 7])
def test_the_error_for_a_bad_user_names_the_bound(user: Any) -> None:
    with pytest.raises(GrantError, match="at most 127 characters"):
        verdict_of(1, Grant(user=user), 0.0)


@pytest.mark.parametrize(
    ("url", "message"),
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
def test_secrets_of_a_jwks_url_are_not_in_its_error(url: str, message: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        verifier(**{"auth-key": "", "auth-jwks": url})
    assert message in str(wrong.value)
    assert "secret" not in str(wrong.value)


def test_grants_of_a_token() -> None:
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
    """It raises TokenError: the client is at fault, not the node."""
    head = base64.urlsafe_b64encode(part.encode()).decode().rstrip("=")
    with pytest.raises(TokenError):
        verifier().grant(f"{head}.e30.c2ln".encode())


def test_a_huge_exp() -> None:
    assert verifier().grant(token("ann", ttl=None, exp=10**30).encode()).expires == 1e30
    with pytest.raises(TokenError):
        verifier().grant(token("ann", ttl=None, exp=10**400).encode())


def test_audience_and_issuer_are_only_checked_if_set() -> None:
    assert verifier().grant(token("ann", aud="x", iss="y").encode()).user == "ann"


def test_errors_hold_nothing_of_the_token() -> None:
    for bad in (token("ann", ttl=-9), token("ann", key="x" * 40), jwt.encode({}, None, "none"), "a.b.c"):
        with pytest.raises(TokenError) as wrong:
            verifier().grant(bad.encode())
        assert not any(part in str(wrong.value) for part in bad.split(".") if len(part) > 3)
