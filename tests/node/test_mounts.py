"""Keys in a folder that Kubernetes mounts: replaced by swapping a symlink, also read in the middle of that."""

import asyncio
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import kit
from keyhost import jwks_of
from minted import KEYS, SECRET, bearer, knock, token, write_pem
from mount import Mount
from signal_py import Engine
from wire import until

OTHER = "another secret of thirty-two bytes or so"


def answer(engine: kit.Engine, key: Any, kid: str | None = None) -> int:
    more = {} if kid is None else {"kid": kid}
    algorithm = "HS256" if isinstance(key, str) else "ES256"
    return knock(engine.port, "/", bearer(token("ann", key=key, algorithm=algorithm, **more))).status


def good(engine: kit.Engine, key: Any, kid: str) -> bool:
    return answer(engine, key, kid) == 101


@pytest.mark.parametrize("form", ["path", "URL"])
def test_a_jwks_of_a_configmap_is_rotated(form: str, tmp_path: Path) -> None:
    """The folder that its path led to before is gone after each rotation."""
    old, new = KEYS["ES256"](), KEYS["ES256"]()
    mount = Mount(tmp_path / "config", jwks_dot_json=jwks_of(old=old))
    file = mount / "jwks.json"
    with kit.engine(auth="jwt", auth_jwks=file if form == "path" else file.as_uri(), auth_refresh=600) as engine:
        assert answer(engine, old, "old") == 101
        for name, key, gone in (("new", new, "old"), ("newer", old, "new")):
            mount.swap(jwks_dot_json=jwks_of(**{name: key}))
            until(partial(good, engine, key, name), "the new key is known")
            assert answer(engine, key, gone) == 401
        assert engine.events("can't be loaded") == []


@pytest.mark.parametrize("kind", ["secret", "PEM"])
def test_a_key_file_of_a_secret_is_rotated(kind: str, tmp_path: Path) -> None:
    """A token signed with the new key causes a read of the file, and is valid. One signed with the old key is not."""

    def written(key: Any) -> bytes:
        return key.encode() if isinstance(key, str) else write_pem(key, tmp_path / "pem").read_bytes()

    old, new = (SECRET, OTHER) if kind == "secret" else (KEYS["ES256"](), KEYS["ES256"]())
    mount = Mount(tmp_path / "secret", key=written(old))
    with kit.engine(auth="jwt", auth_key_file=mount / "key", auth_refresh=600) as engine:
        assert [answer(engine, old), answer(engine, new)] == [101, 401]
        mount.swap(key=written(new))
        until(lambda: answer(engine, new) == 101, "the new key is known")
        assert answer(engine, old) == 401
        until(lambda: len(engine.events("the key for tokens has changed")) == 1, "it is logged")
        third = KEYS["ES256"]() if kind == "secret" else SECRET
        mount.swap(key=written(third))
        until(lambda: answer(engine, third) == 101, "a key of another kind works, too")


def test_a_key_file_is_read_again_after_auth_refresh(tmp_path: Path) -> None:
    """Also if no client has a token signed with the new key."""
    mount = Mount(tmp_path / "secret", key=SECRET)
    with kit.engine(auth="jwt", auth_key_file=mount / "key", auth_refresh=1) as engine:
        given = bearer(token("ann"))
        assert knock(engine.port, "/", given).status == 101
        mount.swap(key=OTHER)
        until(lambda: len(engine.events("the key for tokens has changed")) == 1, "it is read")
        assert knock(engine.port, "/", given).status == 401


@pytest.mark.parametrize("setting", ["auth_jwks", "auth_key_file"])
def test_a_file_that_is_missing_for_a_moment(setting: str, tmp_path: Path) -> None:
    """The old keys stay valid. The fault is logged once, and reading is tried again soon."""
    key = KEYS["ES256"]()
    good: Any = jwks_of(k=key) if setting == "auth_jwks" else SECRET
    mount = Mount(tmp_path / "keys", key=good)
    with kit.engine(auth="jwt", auth_refresh=1, **{setting: mount / "key"}) as engine:

        def welcome() -> bool:
            return (answer(engine, key, "k") if setting == "auth_jwks" else answer(engine, SECRET)) == 101

        assert welcome()
        mount.empty()
        until(lambda: engine.events("can't be loaded"), "it is logged")
        until(lambda: b'signal_engine_auth_keys_trouble{reason="file"} 1.0' in engine.get("metrics"), "and counted")
        assert welcome() and engine.get("readyz") == b"ready\n"
        mount.swap(key=good)
        until(lambda: engine.events("are available again"), "it is read again")
        assert welcome() and len(engine.events("can't be loaded")) == 1
        assert "No such file" in engine.events("can't be loaded")[0]["reason"]
        assert b'signal_engine_auth_keys_trouble{reason="file"} 0.0' in engine.get("metrics")


@pytest.mark.parametrize("bad", [b"", b"\xff\xfe", b"[" * 100_000, b"{}", b" " * (2 << 20)])
def test_a_jwks_that_is_replaced_by_rubbish(bad: bytes, tmp_path: Path) -> None:
    key = KEYS["ES256"]()
    mount = Mount(tmp_path / "keys", key=jwks_of(k=key))
    with kit.engine(auth="jwt", auth_refresh=1, auth_jwks=mount / "key") as engine:
        mount.swap(key=bad)
        until(lambda: engine.events("can't be loaded"), "it is logged")
        assert answer(engine, key, "k") == 101


def test_a_program_that_changes_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path starts where the settings were given, and its symlinks are followed anew each time."""
    old, new = KEYS["ES256"](), KEYS["ES256"]()
    mount = Mount(tmp_path / "config", jwks_dot_json=jwks_of(old=old))
    monkeypatch.chdir(tmp_path)

    async def main() -> None:
        engine = Engine(auth="jwt", auth_jwks="config/jwks.json", auth_refresh=600)
        os.chdir("/")
        async with engine:
            port = engine.listening[0][1]

            def status(key: Any, kid: str) -> int:
                return knock(port, "/", bearer(token("ann", key=key, algorithm="ES256", kid=kid))).status

            assert await asyncio.to_thread(status, old, "old") == 101
            mount.swap(jwks_dot_json=jwks_of(new=new))
            await asyncio.to_thread(until, lambda: status(new, "new") == 101, "the new key is known")

    asyncio.run(main())


def test_a_secret_from_a_pipe() -> None:
    """It can be read only once, and is not read again."""
    script = 'exec "$@" --auth jwt --auth-refresh 1 --auth-key-file <(printf %s "$0")'
    with kit.engine("bash", "-c", script, SECRET) as engine:
        assert [answer(engine, SECRET), answer(engine, OTHER), answer(engine, SECRET)] == [101, 401, 101]
        assert engine.events("can't be loaded") == []
