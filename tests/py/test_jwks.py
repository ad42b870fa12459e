"""Which keys of a JWKS are used, and which are skipped. Keys are made with PyJWT and cryptography."""

import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa, x25519
from hypothesis import given
from hypothesis import strategies as st

from minted import KEYS
from signal_py.auth.jwks import KEYS_MAX, KEYS_TRIED, Jwks, parse
from signal_py.auth.jwks_fetch import REASONS, LookError

PRIVATE = {algorithm: make() for algorithm, make in KEYS.items()}


def jwk(algorithm: str = "ES256", key: Any = None, **more: Any) -> dict[str, Any]:
    """A public key; a member that is None is left out."""
    public = (key or PRIVATE[algorithm]).public_key()
    made: dict[str, Any] = jwt.get_algorithm_by_name(algorithm).to_jwk(public, as_dict=True) | more
    return {name: value for name, value in made.items() if value is not None}


def parsed(*keys: Any) -> Jwks:
    return parse(json.dumps({"keys": keys}).encode())


def okp(key: Any, crv: str) -> dict[str, Any]:
    x = jwt.utils.base64url_encode(key.public_key().public_bytes_raw()).decode()
    return {"kty": "OKP", "crv": crv, "kid": "bad", "x": x}


GOOD = {"kid": "good", "use": "sig", "alg": "ES256"}
FOR_ANOTHER_USE = [
    jwk("RS256", use="enc", kid="bad"),
    jwk("RS256", use="enc", alg="RSA-OAEP", key_ops=None, kid="bad"),
    jwk("ES256", key_ops=["deriveKey"], kid="bad"),
    jwk("RS256", key_ops=["encrypt", "wrapKey"], kid="bad"),
    jwk("RS256", key_ops=[], kid="bad"),
]
UNUSABLE = [
    jwk("RS256", alg="RS512", kid="bad"),
    jwk("RS256", alg="PS256", kid="bad"),
    jwk("RS256", alg="ES256", kid="bad"),
    jwk("ES256", alg="RS256", kid="bad"),
    jwk("ES256", alg="HS256", kid="bad"),
    jwk("ES256", alg=5, kid="bad"),
    jwk("ES256", alg=["ES256"], kid="bad"),
    jwk("ES256", kty="XX", kid="bad"),
    jwk("ES256", kty=None, kid="bad"),
    jwk("ES256", crv="P-999", kid="bad"),
    jwk("ES256", crv="P-384", kid="bad"),
    jwk("ES256", x="!", kid="bad"),
    jwk("ES256", x=5, kid="bad"),
    jwk("RS256", n="", kid="bad"),
    jwk("RS256", e=None, kid="bad"),
    jwk("ES256", kid=5),
    jwk("ES256", ec.generate_private_key(ec.SECP384R1()), kid="bad"),
    jwk("ES256", ec.generate_private_key(ec.SECP384R1()), alg="ES256", kid="bad"),
    okp(ed448.Ed448PrivateKey.generate(), "Ed448") | {"alg": "EdDSA"},
    okp(x25519.X25519PrivateKey.generate(), "X25519"),
    okp(x25519.X25519PrivateKey.generate(), "X25519") | {"alg": "EdDSA"},
    {"kty": "oct", "k": "", "kid": "bad"},
    {"kty": "oct", "k": "c2VjcmV0", "alg": "RS256", "kid": "bad"},
    "no object",
    None,
]


@pytest.mark.parametrize("bad", FOR_ANOTHER_USE)
def test_a_key_for_another_use_is_skipped(bad: dict[str, Any]) -> None:
    """Without a remark: providers list keys for encryption, too."""
    found = parsed(bad, jwk(**GOOD))
    assert (found.count, found.remarks) == (1, [])
    assert found.find("bad", "RS256") == [] and len(found.find("good", "ES256")) == 1


def test_a_member_that_is_null_is_absent() -> None:
    found = parsed(jwk("ES256", kid=None, use=None, alg=None, key_ops=None, d=None))
    assert (found.count, found.remarks) == (1, []) and len(found.find(None, "ES256")) == 1


@pytest.mark.parametrize("bad", UNUSABLE)
def test_a_bad_key_does_not_affect_others(bad: Any) -> None:
    found = parsed(bad, jwk(**GOOD))
    assert found.count == 1 and len(found.remarks) == 1
    assert len(found.find("good", "ES256")) == 1 and list(found.by_name) == ["good"]


def test_remarks_hold_nothing_of_a_key() -> None:
    secret = jwt.utils.base64url_encode(b"a secret of some bytes").decode()
    found = parsed({"kty": "oct", "k": secret, "alg": "RS256"}, {"kty": "oct", "k": secret}, jwk("ES256", x="!"))
    assert len(found.remarks) == 3 and secret not in "".join(found.remarks)


@pytest.mark.parametrize("algorithm", KEYS)
@pytest.mark.parametrize("more", [{}, {"use": "sig"}, {"key_ops": ["verify"]}, {"key_ops": None}, {"alg": True}])
def test_a_good_key(algorithm: str, more: dict[str, Any]) -> None:
    more = {**more, "alg": algorithm} if "alg" in more else more
    found = parsed(jwk(algorithm, kid="k", **more))
    assert [key.algorithm for key in found.find("k", algorithm)] == [algorithm]
    assert found.find(None, algorithm) == found.find("k", algorithm) and found.find("other", algorithm) == []


def test_a_secret_is_for_its_algorithm_only() -> None:
    secret = {"kty": "oct", "k": jwt.utils.base64url_encode(b"s" * 32).decode(), "kid": "k"}
    found = parsed(secret, jwk("RS256", kid="r"))
    assert [key.algorithm for key in found.find(None, "HS256")] == ["HS256"]
    assert [key.key for key in found.find("k", "HS256")] == [b"s" * 32]


def test_weak_keys_get_a_remark() -> None:
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    short = {"kty": "oct", "k": jwt.utils.base64url_encode(b"s" * 8).decode(), "kid": "s"}
    found = parsed(jwk("RS256", weak, kid="w"), short, jwk("RS256", kid="r"))
    assert found.count == 3
    assert [remark.split(":")[0] for remark in found.remarks] == ["key w", "key s"]


def test_keys_with_the_same_name() -> None:
    """For different algorithms, and more than are tried."""
    same = [jwk("ES256", ec.generate_private_key(ec.SECP256R1()), kid="k") for _ in range(KEYS_TRIED + 1)]
    found = parsed(*same, jwk("RS256", kid="k"))
    assert len(found.find("k", "ES256")) == KEYS_TRIED and len(found.find("k", "RS256")) == 1
    assert found.remarks == [f"key k: more than {KEYS_TRIED} keys have this name"]


def test_keys_without_a_name_are_tried_first() -> None:
    named = [jwk("ES256", ec.generate_private_key(ec.SECP256R1()), kid=str(i)) for i in range(KEYS_TRIED)]
    nameless = jwk("ES256")
    found = parsed(*named, nameless)
    assert len(found.find(None, "ES256")) == KEYS_TRIED
    assert found.find(None, "ES256")[0].key == PRIVATE["ES256"].public_key()


def test_the_number_of_keys_is_bounded() -> None:
    found = parsed(*[jwk("EdDSA", kid=str(i)) for i in range(KEYS_MAX + 1)])
    assert found.count == KEYS_MAX and found.remarks == [f"only the first {KEYS_MAX} keys are used"]


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31m", "é" * 500, "x" * 5000, "\ud800"])
def test_the_remark_on_a_hostile_kid_is_short(name: str) -> None:
    found = parsed(jwk("ES256", alg="RS256", kid=name), jwk(**GOOD))
    (remark,) = found.remarks
    assert len(remark) < 200 and remark.isascii() and remark.isprintable()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no-jwks"),
        (b"no JSON", "no-jwks"),
        (b"<html>", "no-jwks"),
        (b"\xff\xff\xff", "no-jwks"),
        (b"[" * 100_000, "no-jwks"),
        (b"[]", "no-jwks"),
        (b"{}", "no-jwks"),
        (b'{"keys": {}}', "no-jwks"),
        (b'{"keys": []}', "no-key"),
        (b'{"keys": [1]}', "no-key"),
        (json.dumps({"keys": [jwk("RS256", use="enc")]}).encode(), "no-key"),
        (json.dumps({"keys": [jwk(), jwk() | {"d": "x"}]}).encode(), "no-jwks"),
    ],
)
def test_malformed_jwks(data: bytes, reason: str) -> None:
    with pytest.raises(LookError) as error:
        parse(data)
    assert error.value.reason == reason and reason in REASONS


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
MEMBERS = ("kty", "crv", "x", "y", "n", "e", "k", "kid", "use", "key_ops", "alg", "d")


@given(st.sampled_from(list(KEYS)), st.dictionaries(st.sampled_from(MEMBERS), JSON, max_size=3))
def test_no_key_breaks_the_parser(algorithm: str, changed: dict[str, Any]) -> None:
    """With any members it is used or skipped, or the set is refused as it is private; the good key stays."""
    try:
        found = parsed(jwk(algorithm) | changed, jwk(**GOOD))
    except LookError as error:
        assert "d" in changed and "private" in str(error)
    else:
        assert 1 <= found.count <= 2 and len(found.find("good", "ES256")) >= 1
