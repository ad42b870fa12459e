"""The keys that tokens are verified with: in files, in a JWKS that changes, behind a URL that may not answer."""

import base64
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest

import kit
from keyhost import KeyHost, jwks_of
from minted import KEYS, SECRET, bearer, knock, protocol_of, token, write_pem
from signal_py.auth.jwks import KEYS_TRIED
from wire import until

HERE = ("--nats", "off", "--listen", "127.0.0.1:0")


@pytest.mark.parametrize("algorithm", KEYS)
def test_key_files(algorithm: str, tmp_path: Path) -> None:
    key = KEYS[algorithm]()
    file = write_pem(key, tmp_path / "key.pem")
    with kit.engine(auth="jwt", auth_key_file=file) as engine:
        assert knock(engine.port, "/", bearer(token("ann", key=key, algorithm=algorithm))).status == 101
        other = KEYS[algorithm]()
        assert knock(engine.port, "/", bearer(token("ann", key=other, algorithm=algorithm))).status == 401
        assert knock(engine.port, "/", bearer(token("ann"))).status == 401


def test_the_public_key_is_not_a_secret(tmp_path: Path) -> None:
    """A token signed with the text of the public key as if it were the secret of an HMAC is refused."""
    file = write_pem(KEYS["RS256"](), tmp_path / "key.pem")
    head, body = (protocol_of(json.dumps(part))[6:] for part in ({"alg": "HS256", "typ": "JWT"}, {"sub": "ann"}))
    mac = hmac.new(file.read_bytes(), f"{head}.{body}".encode(), hashlib.sha256).digest()
    forged = f"{head}.{body}." + base64.urlsafe_b64encode(mac).decode().rstrip("=")
    with kit.engine(auth="jwt", auth_key_file=file) as engine:
        assert knock(engine.port, "/", bearer(forged)).status == 401


@pytest.mark.parametrize("algorithm", KEYS)
def test_a_private_key_is_refused(algorithm: str, tmp_path: Path) -> None:
    """In a PEM file and in a JWKS: verifying needs only the public key."""
    key = KEYS[algorithm]()
    file = write_pem(key, tmp_path / "key.pem", private=True)
    error = kit.complaint(kit.run("serve", *HERE, "--auth", "jwt", "--auth-key-file", str(file)))
    assert f"--auth-key-file {file} is a private key" in error and f"openssl pkey -in {file} -pubout" in error
    jwks = tmp_path / "jwks.json"
    jwks.write_text(json.dumps({"keys": [private_jwk(key, algorithm) | {"kid": "k1"}]}))
    error = kit.complaint(kit.run("serve", *HERE, "--auth", "jwt", "--auth-jwks", str(jwks)))
    assert f"--auth-jwks {jwks}" in error and "k1 is a private key" in error


def test_a_private_key_that_appears_in_a_jwks(tmp_path: Path) -> None:
    """The known keys stay, and the log says why."""
    file = tmp_path / "jwks.json"
    key = KEYS["ES256"]()
    write_jwks(file, old=key)
    with kit.engine(auth="jwt", auth_jwks=file) as engine:
        new = KEYS["ES256"]()
        file.write_text(json.dumps({"keys": [private_jwk(new, "ES256") | {"kid": "new"}]}))
        assert knock(engine.port, "/", bearer(token("ann", key=new, algorithm="ES256", kid="new"))).status == 401
        until(lambda: b"new is a private key" in engine.log(), "the log says so")
        assert knock(engine.port, "/", bearer(token("ann", key=key, algorithm="ES256", kid="old"))).status == 101


def private_jwk(key: Any, algorithm: str) -> dict[str, Any]:
    made: dict[str, Any] = jwt.get_algorithm_by_name(algorithm).to_jwk(key, as_dict=True)
    return made


def test_a_secret_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(SECRET + "\n")
    with kit.engine(auth="jwt", auth_key_file=file) as engine:
        assert knock(engine.port, "/", bearer(token("ann"))).status == 101


def write_jwks(path: Path, **keys: Any) -> None:
    """Replaces a JWKS atomically, as a deployment does."""
    fresh = path.with_suffix(".new")
    fresh.write_bytes(jwks_of(**keys))
    fresh.rename(path)


def write_nameless(path: Path, *keys: Any) -> None:
    """A JWKS whose keys have no `kid`."""
    write_jwks(path, **{f"_{number}": key for number, key in enumerate(keys)})


def test_keys_without_names(tmp_path: Path) -> None:
    """A JWKS may leave `kid` out: any key for the algorithm of the token may have signed it."""
    file = tmp_path / "jwks.json"
    keys = [(algorithm, make()) for algorithm, make in KEYS.items() for _ in range(2)]
    write_nameless(file, *(key for _, key in keys))
    with kit.engine(auth="jwt", auth_jwks=file) as engine:

        def answer(key: Any, algorithm: str, **more: Any) -> int:
            return knock(engine.port, "/", bearer(token("ann", key=key, algorithm=algorithm, **more))).status

        assert [answer(key, algorithm) for algorithm, key in keys] == [101] * len(keys)
        assert [answer(key, algorithm, ttl=-60) for algorithm, key in keys] == [401] * len(keys)
        assert [answer(make(), algorithm) for algorithm, make in KEYS.items()] == [401] * len(KEYS)
        assert answer(keys[0][1], keys[0][0], kid="other") == 401


def test_the_keys_tried_for_a_token_are_bounded(tmp_path: Path) -> None:
    """Further keys with the same name, or without one, are skipped, and the log says so."""
    file = tmp_path / "jwks.json"
    keys = [KEYS["ES256"]() for _ in range(KEYS_TRIED + 1)]
    other = KEYS["EdDSA"]()
    write_nameless(file, *keys, other)
    with kit.engine(auth="jwt", auth_jwks=file) as engine:
        until(lambda: b"some keys of the JWKS are skipped" in engine.log(), "the log says so")
        given = [token("ann", key=key, algorithm="ES256") for key in keys]
        given.append(token("ann", key=other, algorithm="EdDSA"))
        answers = [knock(engine.port, "/", bearer(one)).status for one in given]
        assert answers == [101] * KEYS_TRIED + [401, 101]


def test_a_jwks_file_is_rotated(tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    keys = {algorithm: make() for algorithm, make in KEYS.items()}
    write_jwks(file, **keys)
    with kit.engine(auth="jwt", auth_jwks=file, auth_refresh=600) as engine:

        def answer(name: str, key: Any, algorithm: str) -> int:
            return knock(engine.port, "/", bearer(token("ann", key=key, algorithm=algorithm, kid=name))).status

        for name, key in keys.items():
            assert answer(name, key, name) == 101
        assert answer("RS256", keys["ES256"], "ES256") == 401
        new = KEYS["ES256"]()
        assert answer("new", new, "ES256") == 401
        write_jwks(file, new=new)
        until(lambda: answer("new", new, "ES256") == 101, "the new key is known without waiting for a refresh")
        assert answer("RS256", keys["RS256"], "RS256") == 401
        assert knock(engine.port, "/", bearer(token("ann", key=new, algorithm="ES256"))).status == 101
        file.write_text("no JSON")
        assert answer("other", new, "ES256") == 401
        assert answer("new", new, "ES256") == 101


def test_a_jwks_file_is_read_again_after_auth_refresh(tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    old, new = KEYS["EdDSA"](), KEYS["EdDSA"]()
    write_jwks(file, old=old)
    with kit.engine(auth="jwt", auth_jwks=file, auth_refresh=1) as engine:
        given = bearer(token("ann", key=old, algorithm="EdDSA", kid="old"))
        assert knock(engine.port, "/", given).status == 101
        write_jwks(file, new=new)
        until(lambda: knock(engine.port, "/", given).status == 401, "the removed key is forgotten")


def test_a_jwks_behind_a_url() -> None:
    key = KEYS["RS256"]()
    with KeyHost() as host, kit.engine(auth="jwt", auth_jwks=host.url + "?secret=1") as engine:
        host.answers["/keys"] = host.answer(500, b"")
        given = bearer(token("ann", key=key, algorithm="RS256", kid="k1"))
        before = engine.total("auth_failed")
        assert knock(engine.port, "/", given).status == 503
        assert engine.total("auth_failed") == before + 1
        host.answers.clear()
        host.body = jwks_of(k1=key)
        until(lambda: knock(engine.port, "/", given).status == 101, "the keys are fetched")
        assert b"secret=1" not in engine.log() and b"can't be loaded" in engine.log()


def test_a_jwks_without_an_end() -> None:
    """It takes one thread, however many clients wait for it, and delays neither an answer nor the engine's end."""

    def threads() -> int:
        return len(list(Path(f"/proc/{engine.pid}/task").iterdir()))

    with KeyHost() as host:
        host.answers["/keys"] = host.drip(b"HTTP/1.1 200 OK\r\n\r\n", b" ", 0.05)
        with kit.engine(auth="jwt", auth_jwks=host.url, auth_timeout=0.3, loops=1) as engine:
            before = 0
            for _ in range(4):
                assert knock(engine.port, "/", bearer(token("ann", kid="k"))).status == 503
                before = before or threads()  # without those of the start, which have ended by now
            until(lambda: threads() <= before, "no fetch leaves a thread")
            until(lambda: engine.log().count(b"keys for tokens can't be loaded") == 1, "it is logged once")
            begun = time.monotonic()
            assert engine.end() == 0 and time.monotonic() - begun < 5
