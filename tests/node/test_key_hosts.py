"""A JWKS behind a URL whose host is strict, slow or away; what operators see of that, and of refused tokens."""

import json
import threading
import time
import urllib.error
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

import kit
from keyhost import KeyHost, jwks_of
from minted import KEYS, SECRET, Guest, bearer, knock, token
from signal_py.auth.jwks import KEYS_TRIED
from signal_py.base.version import VERSION
from wire import until


def metric(engine: kit.Engine, name: str) -> float:
    """A metric that has no label `loop`."""
    lines = engine.get("metrics").decode().splitlines()
    return float(next(line for line in lines if line.startswith(name)).rpartition(" ")[2])


def readiness(engine: kit.Engine) -> tuple[int, str]:
    try:
        return 200, engine.get("readyz").decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.fixture
def host() -> Iterator[KeyHost]:
    with KeyHost() as made:
        yield made


def answer(engine: kit.Engine, key: Any, algorithm: str = "ES256", **more: Any) -> int:
    return knock(engine.port, "/", bearer(token("ann", key=key, algorithm=algorithm, **more))).status


def test_a_host_that_refuses_python(host: KeyHost) -> None:
    key = KEYS["RS256"]()
    host.body = jwks_of(k1=key)
    strict = lambda handler: host.answer(403 if "ython" in handler.headers["User-Agent"] else 200)(handler)  # noqa: E731
    host.answers["/keys"] = strict
    with kit.engine(auth="jwt", auth_jwks=host.url) as engine:
        until(lambda: answer(engine, key, "RS256", kid="k1") == 101, "the keys are fetched")
    assert host.asked[0][1]["user-agent"] == f"signal-engine/{VERSION}"


def test_a_host_that_redirects(host: KeyHost) -> None:
    key = KEYS["RS256"]()
    host.body = jwks_of(k1=key)
    host.answers["/keys"] = host.redirect("/elsewhere")
    with kit.engine(auth="jwt", auth_jwks=host.url) as engine:
        until(lambda: answer(engine, key, "RS256", kid="k1") == 101, "the keys are fetched")


def test_a_node_without_keys_is_not_ready(host: KeyHost) -> None:
    """A start does not fail if the host is away: readiness says why, and the node tries again. Once it has keys, it
    stays ready, also while the host is away again."""
    key = KEYS["ES256"]()
    host.body = jwks_of(k1=key, k2=KEYS["RS256"]())
    host.answers["/keys"] = host.answer(503, b"secret")
    with kit.engine(auth="jwt", auth_jwks=host.url + "?secret=1", auth_refresh=1) as engine:
        until(lambda: readiness(engine) == (503, "no keys for tokens: it answers 503\n"), "readiness says why")
        assert engine.get("healthz") == b"ok\n" and metric(engine, "signal_engine_auth_keys ") == 0
        assert metric(engine, 'signal_engine_auth_keys_trouble{reason="status"}') == 1
        del host.answers["/keys"]
        until(lambda: readiness(engine) == (200, "ready\n"), "it is ready, without a client")
        assert metric(engine, "signal_engine_auth_keys ") == 2 and engine.stats()["auth_keys"] == 2
        assert metric(engine, 'signal_engine_auth_keys_trouble{reason="status"}') == 0
        host.answers["/keys"] = host.answer(200, b"<html>secret</html>")
        until(lambda: metric(engine, 'signal_engine_auth_keys_trouble{reason="no-jwks"}') == 1, "it is counted")
        assert readiness(engine) == (200, "ready\n") and answer(engine, key, kid="k1") == 101
        assert engine.stats()["auth_keys_trouble"] == "no-jwks"
        until(lambda: len(engine.events("can't be loaded")) == 2, "each fault is logged")
        assert len(engine.events("are available again")) == 1
        assert b"secret" not in engine.log()


def test_a_fault_that_lasts_is_logged_once(host: KeyHost) -> None:
    host.answers["/keys"] = host.answer(404, b"")
    with kit.engine(auth="jwt", auth_jwks=host.url, auth_refresh=1) as engine:
        until(lambda: len(host.asked) >= 4, "it is tried again and again")
        until(lambda: engine.events("can't be loaded"), "it is logged")
        assert len(engine.events("can't be loaded")) == 1


def test_a_node_without_a_jwks_is_ready() -> None:
    with kit.engine(auth="jwt", auth_key=SECRET) as one, kit.engine() as other:
        assert readiness(one) == readiness(other) == (200, "ready\n")
        assert [metric(each, "signal_engine_auth_keys ") for each in (one, other)] == [1, 0]


# -- a token without a kid --


@pytest.mark.parametrize("count", [1, 2, 3, KEYS_TRIED])
@pytest.mark.parametrize("named", [True, False])
def test_every_key_of_the_right_kind_is_tried(host: KeyHost, count: int, named: bool) -> None:
    """Whether or not the keys have names."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(count)]
    host.body = jwks_of(r=KEYS["RS256"](), **{f"{'k' if named else '_'}{i}": key for i, key in enumerate(keys)})
    with kit.engine(auth="jwt", auth_jwks=host.url) as engine:
        until(lambda: readiness(engine)[0] == 200, "the keys are there")
        assert [answer(engine, key) for key in keys] == [101] * count
        assert [answer(engine, KEYS["ES256"]()), answer(engine, KEYS["EdDSA"](), "EdDSA")] == [401, 401]


def test_a_key_without_a_name_is_rotated(host: KeyHost) -> None:
    """A token without `kid` that no known key has signed causes a fetch."""
    old, new = KEYS["ES256"](), KEYS["ES256"]()
    host.body = jwks_of(_=old)
    with kit.engine(auth="jwt", auth_jwks=host.url, auth_refresh=600) as engine:
        until(lambda: answer(engine, old) == 101, "the keys are there")
        host.body = jwks_of(_=new)
        until(lambda: answer(engine, new) == 101, "the new key is fetched")
        assert answer(engine, old) == 401


def test_a_key_for_encryption_is_not_used_for_signatures(host: KeyHost) -> None:
    """Whether a token names it or not."""
    keys = {use: KEYS["RS256"]() for use in ("enc", "sig")}
    jwks = json.loads(jwks_of(**keys))
    for key in jwks["keys"]:
        key["use"] = key["kid"]
        del key["key_ops"]
    host.body = json.dumps(jwks).encode()
    with kit.engine(auth="jwt", auth_jwks=host.url) as engine:
        until(lambda: answer(engine, keys["sig"], "RS256", kid="sig") == 101, "the keys are there")
        assert answer(engine, keys["sig"], "RS256") == 101
        assert [answer(engine, keys["enc"], "RS256", **more) for more in ({"kid": "enc"}, {})] == [401, 401]
        assert engine.events("skipped") == []


def test_a_flood_of_unknown_keys_fetches_once_a_second(host: KeyHost) -> None:
    """And delays nobody whose key is known."""
    key = KEYS["ES256"]()
    host.body = jwks_of(k=key)
    with kit.engine(auth="jwt", auth_jwks=host.url, auth_refresh=600) as engine:
        until(lambda: answer(engine, key, kid="k") == 101, "the keys are there")
        ends = threading.Event()
        statuses: list[int] = []

        def flood(number: int) -> None:
            count = 0
            while not ends.is_set():
                count += 1
                statuses.append(answer(engine, key, kid=f"{number}-{count}" if number % 2 else "x" * 3000))

        threads = [threading.Thread(target=flood, args=(number,)) for number in range(16)]
        before, begun = len(host.asked), time.monotonic()
        for thread in threads:
            thread.start()
        until(lambda: len(host.asked) >= before + 3, "keys are fetched")
        assert answer(engine, key, kid="k") == 101
        ends.set()
        for thread in threads:
            thread.join()
        assert len(host.asked) - before <= time.monotonic() - begun + 2
        assert set(statuses) == {401}


# -- refused tokens in the log --


def test_the_log_says_why_a_token_is_refused(host: KeyHost) -> None:
    """At level info, with the claim, the key and the algorithm, but never the token or its content."""
    key = KEYS["ES256"]()
    host.body = jwks_of(k=key)
    with kit.engine(auth="jwt", auth_jwks=host.url, auth_audience="us") as engine:
        until(lambda: readiness(engine)[0] == 200, "the keys are there")
        cases: dict[str, Any] = {
            "exp": {"ttl": -60}, "nbf": {"nbf": time.time() + 60}, "aud": {"aud": "them"}, "rooms": {"rooms": "hush"},
            "sub": {"sub": "hush hush"}, "to": {"to": 1}, "iat": {"iat": "hush"}, "max_rooms": {"max_rooms": -1},
        }  # fmt: skip
        for claim, claims in cases.items():
            given = token(**{"sub": "ann", "aud": "us", "key": key, "algorithm": "ES256", "kid": "k"} | claims)

            def logged(given: str = given, claim: str = claim) -> list[dict[str, Any]]:
                assert knock(engine.port, "/", bearer(given)).status == 401
                return [line for line in engine.events("refused a connection") if line["claim"] == claim]

            line = until(logged, f"{claim} is logged")[0]
            assert (line["level"], line["kid"], line["alg"]) == ("info", "k", "ES256"), line
            assert (line["status"], line["remote"]) == (401, "127.0.0.1")
            for part in given.split("."):
                assert part.encode() not in engine.log()
        assert b"hush" not in engine.log()


def test_one_refusal_a_second_is_logged() -> None:
    """With the number of those that were not. At level debug, all are logged."""
    bad = bearer(token("ann", ttl=-60))
    with kit.engine(auth="jwt", auth_key=SECRET) as engine:
        begun = time.monotonic()
        sent = 0
        while sent < 100 or not any("untold" in line for line in engine.events("refused a connection")):
            assert knock(engine.port, "/", bad).status == 401
            sent += 1
        lines = engine.events("refused a connection")
        assert len(lines) <= time.monotonic() - begun + 1
        assert sum(line.get("untold", 0) for line in lines) + len(lines) <= sent
        assert lines[-1]["untold"] >= 1 and {line["claim"] for line in lines} == {"exp"}
    with kit.engine(auth="jwt", auth_key=SECRET, log_level="debug") as engine:
        for _ in range(5):
            assert knock(engine.port, "/", bad).status == 401
        until(lambda: len(engine.events("refused a connection")) == 5, "all are logged")


def test_a_refused_renewal_is_logged_too() -> None:
    with kit.engine(auth="jwt", auth_key=SECRET) as engine:
        with Guest(engine.port, token=token("ann")) as ann:
            assert ann.ask(f"AUTH {token('ann', ttl=-60)}") == "denied"
        lines = until(lambda: engine.events("refused a connection"), "it is logged")
        assert [line["claim"] for line in lines] == ["exp"]
