"""Engine.reload: every setting has a class of reload, and is held to it."""

import asyncio
import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

import kit
from minted import KEYS as MAKERS
from minted import SECRET, write_pem
from scripted_core import make_seed
from signal_core.engine import Core
from signal_py import ConfigError, Engine, EngineError, ReloadError
from signal_py.config.settings import SETTINGS, Config
from signal_py.config.types import RELOADS
from signal_py.runtime import CORE_SIZES, CORE_TIMES, Runtime, core_settings

AWAY = {"nats": "nats://127.0.0.1:1"}  # a cluster whose server nobody runs
JWT = {"auth": "jwt", "auth_key": SECRET}
# By setting: what the engine has before, and the value that it is reloaded with. A path is written by `files`.
ADMIN_TLS = {"admin": "127.0.0.1:0", "admin_tls_cert": "FILE cert", "admin_tls_key": "FILE key"}
CHANGES: dict[str, tuple[dict[str, Any], Any]] = {
    "listen": ({}, "127.0.0.2:0"),
    "listen-mode": ({}, "0600"),
    "reuse-port": ({}, "on"),
    "advertise": ({}, "wss://a.example/"),
    "path": ({}, "/ws"),
    "loops": ({"loops": 1}, 2),
    "node": ({"node": "a"}, "b"),
    "nats": (AWAY, "nats://127.0.0.1:2"),
    "nats-discovered": (AWAY, "off"),
    "nats-token": (AWAY, "token"),
    "nats-user": (AWAY | {"nats_user": "ann", "nats_password": "p"}, "bob"),
    "nats-password": (AWAY | {"nats_user": "ann", "nats_password": "p"}, "q"),
    "nats-nkey": (AWAY, "FILE seed"),
    "nats-creds": (AWAY, "FILE creds"),
    "nats-tls-ca": (AWAY, "FILE ca"),
    "nats-tls-cert": (AWAY | {"nats_tls_cert": "FILE cert", "nats_tls_key": "FILE key"}, "FILE copied"),
    "nats-tls-key": (AWAY | {"nats_tls_cert": "FILE cert", "nats_tls_key": "FILE key"}, "FILE same"),
    "prefix": ({}, "other"),
    "control": ({}, "off"),
    "max-message": ({}, 1000),
    "deflate": ({}, "on"),
    "deflate-threshold": ({"deflate": "on"}, 1000),
    "deflate-level": ({}, 9),
    "max-request-line": ({}, 1000),
    "max-head": ({}, 1000),
    "max-rooms": ({}, 10),
    "max-refs": ({}, 10),
    "max-connections": ({}, 10),
    "max-connections-per-address": ({}, 10),
    "max-connections-per-user": ({}, 10),
    "accept-rate": ({}, 1000),
    "accept-yield": ({}, "off"),
    "max-rate": ({}, 10),
    "max-burst": ({"max_rate": 10}, 20),
    "handshake-timeout": ({}, 1.0),
    "ping-interval": ({}, 1.0),
    "pong-timeout": ({}, 1.0),
    "stall-timeout": ({}, 1.0),
    "message-timeout": ({}, 1.0),
    "ttl": ({}, 1.0),
    "backlog-bytes": ({}, 2048),
    "backlog-messages": ({}, 10),
    "backlog-total": ({}, 100_000),
    "send-buffer": ({}, 65536),
    "receive-buffer": ({}, 65536),
    "input-total": ({}, 100_000),
    "memory-trim": ({}, "off"),
    "inbox-messages": ({}, 100),
    "nats-pending": ({}, 100_000),
    "close-timeout": ({}, 1.0),
    "drain-time": ({}, 1.0),
    "drain-url": ({}, "wss://b.example/"),
    "auth": ({}, "jwt"),
    "auth-key": (JWT, SECRET[::-1]),
    "auth-key-file": ({"auth": "jwt", "auth_key_file": "FILE public"}, "FILE public2"),
    "auth-jwks": ({"auth": "jwt", "auth_jwks": "FILE jwks"}, "FILE jwks2"),
    "auth-refresh": ({"auth": "jwt", "auth_jwks": "FILE jwks"}, 10.0),
    "auth-algorithms": (JWT, ["HS256"]),
    "auth-audience": (JWT, "a"),
    "auth-issuer": (JWT, "a"),
    "auth-leeway": (JWT, 1.0),
    "auth-grace": (JWT, 1.0),
    "auth-timeout": (JWT, 1.0),
    "auth-pending": (JWT, 64),
    "origins": ({}, ["https://a.example"]),
    "trusted-proxies": ({}, ["10.0.0.0/8"]),
    "proxy-protocol": ({}, "on"),
    "admin": ({}, "127.0.0.1:0"),
    "admin-tls-cert": (ADMIN_TLS, "FILE copied"),
    "admin-tls-key": (ADMIN_TLS, "FILE same"),
    "admin-tls-client-ca": (ADMIN_TLS, "FILE ca"),
    "echo": ({}, "on"),
    "log-format": ({}, "json"),
    "log-level": ({}, "debug"),
}
ALSO = {"auth": {"auth_key": SECRET}}  # what has to come with a change


def runtime_of(engine: Engine) -> Runtime:
    return engine._runtime


def core_of(engine: Engine) -> Core:
    assert engine._runtime.core is not None
    return engine._runtime.core


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that settings can name."""
    folder = tmp_path_factory.mktemp("files")
    authority = trustme.CA()
    mine = authority.issue_cert("node")
    authority.cert_pem.write_to_path(folder / "ca")
    for name in ("cert", "copied"):
        mine.cert_chain_pems[0].write_to_path(folder / name)
    for name in ("key", "same"):
        mine.private_key_pem.write_to_path(folder / name)
    seed = make_seed()[0]
    (folder / "seed").write_text(seed)
    blocks = (
        f"-----BEGIN {name}-----\n{text}\n------END {name}------\n"
        for name, text in (("NATS USER JWT", "e30.e30."), ("USER NKEY SEED", seed))
    )
    (folder / "creds").write_text("".join(blocks))
    for name in ("public", "public2"):
        write_pem(MAKERS["ES256"](), folder / name)
    for name in ("jwks", "jwks2"):
        (folder / name).write_text(json.dumps({"keys": [{"kty": "oct", "kid": name, "alg": "HS256", "k": "a" * 43}]}))
    return folder


def with_files(value: Any, folder: Path) -> Any:
    return str(folder / value[5:]) if isinstance(value, str) and value.startswith("FILE ") else value


def test_every_setting_has_a_class_and_a_change() -> None:
    assert {name for name, setting in SETTINGS.items() if setting.reload not in RELOADS} == set()
    assert list(CHANGES) == list(SETTINGS)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_reload_holds_the_class_of_a_setting(name: str, files: Path) -> None:
    """Afterwards the loops have the settings of an engine that was started with the new value, or with the old one if
    that needs a restart, and the result says which."""
    setting = SETTINGS[name]
    before, value = CHANGES[name]
    before = {"listen": "127.0.0.1:0", "nats": "off", "loops": 2} | before
    before = {field: with_files(given, files) for field, given in before.items()}
    change = {setting.field: with_files(value, files)} | ALSO.get(name, {})

    async def main() -> None:
        async with Engine(**before) as engine:  # type: ignore[arg-type]
            old = runtime_of(engine).config
            block = core_of(engine).in_force(0)
            done = await engine.reload(**change)  # type: ignore[arg-type]
            listed = done.restart if setting.reload == "restart" else done.changed
            assert name in [one.setting for one in listed]
            assert done.unchanged == len(SETTINGS) - len(done.changed) - len(done.restart)
            now = runtime_of(engine).config
            if setting.reload == "restart":
                assert done.changed == () and now == replace(old, sources=now.sources)
                assert all(core_of(engine).in_force(loop) == block for loop in (0, core_of(engine).nloops - 1))
            else:
                assert done.restart == () and getattr(now, setting.field) != getattr(old, setting.field)
                as_started(engine, now)
                assert (core_of(engine).in_force(0) != block) == in_core(name)
            again = await engine.reload()
            assert again.changed == () and again.restart == done.restart

    asyncio.run(main())


def in_core(name: str) -> bool:
    """Whether the core has the setting in its block. The mailboxes have theirs."""
    field = SETTINGS[name].field
    more = ("drain-url", "accept-yield", "memory-trim", "backlog-total", "input-total", "trusted-proxies")
    more += ("proxy-protocol", "deflate")
    return field in CORE_SIZES or field in CORE_TIMES.values() or name in more


def as_started(engine: Engine, config: Config) -> None:
    """Asserts that each loop has the settings that a new core would be made with."""
    runtime = runtime_of(engine)
    fresh = Core(core_settings(config, runtime.node, runtime._cluster, runtime._hooks))
    for loop in range(core_of(engine).nloops):
        assert core_of(engine).in_force(loop) == fresh.in_force(0)


SEQUENCES = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "max_message": st.sampled_from([1, 1000, 65536, 1 << 20]),
            "max_rooms": st.integers(1, 300),
            "max_refs": st.integers(1, 100),
            "max_connections": st.sampled_from([0, 1, 100]),
            "max_connections_per_address": st.sampled_from([0, 1, 100]),
            "max_rate": st.sampled_from([0, 1, 10_000]),
            "max_burst": st.sampled_from([0, 1, 10_000]),
            "ping_interval": st.floats(0.1, 100),
            "message_timeout": st.sampled_from([0.0, 1.0, 30.0]),
            "backlog_bytes": st.sampled_from([1024, 1 << 20]),
            "inbox_messages": st.sampled_from([0, 64, 100_000]),
            "origins": st.lists(st.sampled_from(["https://a.example", "https://*.b.example"]), max_size=2),
            "trusted_proxies": st.lists(st.sampled_from(["10.0.0.0/8", "::1"]), max_size=2),
            "path": st.sampled_from(["/", "/ws", "/ws/deep"]),
            "drain_url": st.sampled_from(["", "wss://a.example/"]),
            "max_head": st.sampled_from([1, 512, 65536]),  # 1 can't be used
        },
    ),
    max_size=12,
)


@settings(max_examples=25, deadline=None)
@given(SEQUENCES)
def test_any_sequence_of_reloads(steps: list[dict[str, Any]]) -> None:
    """Each is done as a whole or not at all, and the loops have what an engine started with the sum would have."""

    async def main() -> None:
        async with Engine(loops=2) as engine:
            for step in steps:
                before = core_of(engine).in_force(1)
                if step.get("max_head") == 1:
                    with pytest.raises(ConfigError, match=r"Engine\.reload's max_head is 1"):
                        await engine.reload(**step)
                    assert core_of(engine).in_force(1) == before
                else:
                    await engine.reload(**step)
                as_started(engine, runtime_of(engine).config)

    asyncio.run(main())


def test_a_change_of_auth_keeps_its_keys() -> None:
    """It needs a restart, and so do the settings that belong to it: the old keys stay in force."""

    async def main() -> None:
        async with Engine(auth="jwt", auth_key=SECRET) as engine:
            done = await engine.reload(auth="off", auth_key="", max_rooms=5)
            assert [one.setting for one in done.restart] == ["auth", "auth-key"]
            assert [(one.setting, one.old, one.new) for one in done.changed] == [("max-rooms", 256, 5)]
            assert (done.restart[1].old, done.restart[1].new) == ("***", "")
            assert runtime_of(engine).config.auth_key == SECRET

    asyncio.run(main())


def test_nats_cannot_be_switched_on() -> None:
    async def main() -> None:
        async with Engine() as engine:
            done = await engine.reload(nats="nats://u:secret@127.0.0.1:1", nats_token="t", nats_pending=100_000)
            assert [one.setting for one in done.restart] == ["nats", "nats-token"]
            assert done.restart[0].new == ("nats://***@127.0.0.1:1",)
            assert [one.setting for one in done.changed] == ["nats-pending"]

    asyncio.run(main())


def test_faults_change_nothing(tmp_path: Path) -> None:
    """All of them are reported at once, with the keyword."""

    async def main() -> None:
        async with Engine(auth="jwt", auth_key=SECRET, nats="nats://127.0.0.1:1") as engine:
            gone = str(tmp_path / "gone")
            with pytest.raises(ConfigError) as failed:
                await engine.reload(max_rooms=5, auth_key="", auth_key_file=gone, nats_creds=gone)
            texts = [fault.text for fault in failed.value.faults]
            assert len(texts) == 2 and "nats_creds" in texts[0] and "auth_key_file" in texts[1], texts
            with pytest.raises(ConfigError, match=r"Engine\.reload's max_romes is not a setting: write max_rooms="):
                await engine.reload(max_romes=5)  # type: ignore[call-arg]
            assert runtime_of(engine).config.max_rooms == 256

    asyncio.run(main())


def test_an_engine_that_stops_is_not_reloaded() -> None:
    async def main() -> None:
        engine = Engine()
        with pytest.raises(EngineError):
            await engine.reload(max_rooms=5)
        await engine.start()
        await engine.stop()
        with pytest.raises(ReloadError, match="The engine is stopped: settings can be reloaded while it is running"):
            await engine.reload(max_rooms=5)

    asyncio.run(main())


def test_reloads_at_once_are_done_one_after_the_other() -> None:
    async def main() -> None:
        async with Engine() as engine:
            done = await asyncio.gather(*(engine.reload(max_rooms=number) for number in range(1, 21)))
            olds, news = ([getattr(one.changed[0], end) for one in done] for end in ("old", "new"))
            assert sorted(news) == list(range(1, 21)) and len(set(olds)) == 20
            as_started(engine, runtime_of(engine).config)

    asyncio.run(main())


def test_the_program_reads_as_many_messages_as_the_new_limit_allows() -> None:
    async def main() -> None:
        async with Engine(inbox_messages=64) as engine:
            await engine.reload(inbox_messages=1000)
            assert engine._local_peer is not None and engine._local_peer.limit == 1000
            for _ in range(500):
                await engine.send(engine.address, b"x")
            with contextlib.suppress(asyncio.TimeoutError):
                for _ in range(500):
                    await asyncio.wait_for(anext(engine.messages()), kit.PATIENCE)

    asyncio.run(main())
