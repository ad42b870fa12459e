"""Settings: each alone, combinations, and sources."""

import ast
import dataclasses
import random
import re
import typing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signal_py import Engine, runtime
from signal_py.auth.keys import keys_of
from signal_py.base.errors import ConfigError
from signal_py.base.hostport import host_port, split_address, url_of
from signal_py.base.resources import Resources
from signal_py.cli.settings_doc import document
from signal_py.config.load import make_config
from signal_py.config.nats_url import Server, check_url, parse_url
from signal_py.config.options import Options
from signal_py.config.settings import SETTINGS, Config
from signal_py.config.sources import load, read_file
from signal_py.config.types import Setting
from signal_py.nats.servers import LAST_DELAY, Pool
from signal_py.runtime import CORE_SIZES, CORE_TIMES, core_settings

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "settings.md"
NUMBERS = [setting for setting in SETTINGS.values() if setting.kind in (int, float)]


def refuse(flags: dict[str, object], *parts: str) -> None:
    """Asserts that these flags are refused with one sentence that has all these parts."""
    with pytest.raises(ConfigError) as refused:
        load(flags, {})
    sentence = str(refused.value)
    assert "\n" not in sentence and sentence.endswith(".")
    for part in parts:
        assert part in sentence


# -- the table --


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS.keys())
def test_the_default_passes_its_own_check(setting: Setting) -> None:
    assert setting.parse(setting.default, "it") == setting.default


def test_names() -> None:
    assert {setting.field for setting in SETTINGS.values()} | {"sources"} == {
        field.name for field in dataclasses.fields(Config)
    }
    assert SETTINGS["max-message"].variable == "SIGNAL_ENGINE_MAX_MESSAGE"
    assert SETTINGS["max-message"].flag == "--max-message"


def test_keywords_of_engine_are_the_settings() -> None:
    hints = typing.get_type_hints(Options)
    assert list(hints) == [setting.field for setting in SETTINGS.values()]
    for setting in SETTINGS.values():
        hint = hints[setting.field]
        switch = set(setting.choices) == {"on", "off"} and set(typing.get_args(hint)) == {bool, str}
        switch = switch or (bool(setting.word) and set(typing.get_args(hint)) == {setting.kind, str})
        assert hint is setting.kind or switch or (setting.kind is tuple and str in typing.get_args(hint))


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"auth": "jwt"}, "Engine's auth is jwt without a key: give one of auth_key, auth_key_file, auth_jwks."),
        ({"auth_key": "x"}, "Engine's auth_key is given without auth='jwt'"),
        ({"nats_user": "ann"}, "Engine's nats_user is given without nats_password"),
        ({"loops": -1}, "Engine's loops is -1"),
        ({"max_mesage": 1}, "Engine's max_mesage is not a setting: write max_message=…"),
        ({"max-message": 1}, "Engine's max-message is not a setting: write max_message=…"),
        ({"atuh": "jwt"}, "Engine's atuh is not a setting: write auth=…"),
        ({"zzzz": 1}, "Engine's zzzz is not a setting: signal_py.config.settings.Config lists them"),
        ({"reuse_port": "yes"}, "Engine's reuse_port is 'yes': use one of on, off"),
        ({"auth": True}, "Engine's auth must be a string"),
    ],
)
def test_errors_of_the_library_name_keywords(settings: dict[str, object], wanted: str) -> None:
    with pytest.raises(ConfigError) as error:
        Engine(**settings)  # type: ignore[arg-type]
    assert str(error.value).startswith(wanted) and "--" not in str(error.value)


def test_errors_of_the_command_line_name_flags() -> None:
    for flags, wanted in (({"auth": "jwt"}, "--auth-key"), ({"auth-key": "x"}, "--auth jwt")):
        with pytest.raises(ConfigError, match=wanted):
            load(flags, {})


def test_no_error_of_the_library_names_a_flag() -> None:
    """Only errors of the command line do."""
    found = []
    for path in sorted((ROOT / "signal_py").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if path.parent.name != "cli" and isinstance(node, ast.Raise):
                texts = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
                found += [(path.name, text) for text in texts if isinstance(text, str) and re.search(r"--[a-z]", text)]
    assert not found


def test_on_and_off_may_be_true_and_false() -> None:
    config = make_config({"reuse-port": True, "control": False}, {"reuse-port": "", "control": ""})
    assert (config.reuse_port, config.control) == ("on", "off")


@pytest.mark.parametrize("path", ["/", "/ws", "/ws/", "/a/b.c-d_e~f", "/%20", "/" + "x" * 126])
def test_good_paths(path: str) -> None:
    assert make_config({"path": path}, {"path": "--path"}).path == path


@pytest.mark.parametrize(
    "path", ["", "ws", "//", "/a//b", "/ws?x", "/ws#x", "/w s", "/é", "/healthz", "/healthz/", "/" + "x" * 127]
)
def test_bad_paths(path: str) -> None:
    with pytest.raises(ConfigError, match=r"^--path "):
        make_config({"path": path}, {"path": "--path"})


def test_docs_are_up_to_date() -> None:
    assert DOCS.read_text(encoding="utf-8") == document(), "run 'make docs'"


def test_every_limit_reaches_the_core() -> None:
    config = make_config({"ttl": 1.5, "max-message": 77, "loops": 3}, {"ttl": "", "max-message": "", "loops": ""})
    settings = core_settings(config, "n1", cluster=False, hooks=True)
    assert settings["ttl_ms"] == 1500 and settings["max_message"] == 77 and settings["loops"] == 3
    passed = {*CORE_SIZES, *CORE_TIMES.values(), "loops", "node", "backlog_total", "input_total", "drain_url"}
    passed |= {"accept_yield", "inbox_messages", "memory_trim", "deflate", "echo"}
    others = {"listen", "advertise", "reuse_port", "nats", "control", "admin", "drain_time", "log_format", "log_level"}
    others |= {"trusted_proxies", "proxy_protocol", "listen_mode"}
    others |= {"admin_tls_cert", "admin_tls_key", "admin_tls_client_ca"}
    assert {setting.field for setting in SETTINGS.values()} - passed - others == {
        "nats_discovered", "nats_token", "nats_user", "nats_password", "nats_nkey", "nats_creds",
        "nats_tls_ca", "nats_tls_cert", "nats_tls_key",
        "auth_key", "auth_key_file", "auth_jwks", "auth_refresh", "auth_algorithms", "auth_audience", "auth_issuer",
        "auth_leeway",
    }  # fmt: skip


def test_networks_of_proxies() -> None:
    given = {"trusted-proxies": ["10.1.2.3/8", "::1", "192.0.2.1"]}
    mapped = bytes(10) + b"\xff\xff"
    assert core_settings(make_config(given, dict.fromkeys(given, "")), "n", False, False)["proxies"] == [
        (mapped + bytes([10, 0, 0, 0]), 104),
        (bytes(15) + b"\1", 128),
        (mapped + bytes([192, 0, 2, 1]), 128),
    ]
    refuse({"trusted-proxies": "proxy.example"}, "--trusted-proxies", "is not a network")


def test_zeros_become_defaults_of_the_machine() -> None:
    settings = core_settings(Config(), "n1", cluster=True, hooks=False)
    assert typing.cast(int, settings["loops"]) >= 1
    assert typing.cast(int, settings["backlog_total"]) > 1 << 20
    assert settings["input_total"] == settings["backlog_total"]


@pytest.mark.parametrize(
    ("memory", "loops", "each"), [(256, 1, 16384), (256, 3, 8192), (64, 250, 64), (1 << 20, 2, 65536)]
)
def test_mailboxes_are_as_large_as_memory_allows(
    monkeypatch: pytest.MonkeyPatch, memory: int, loops: int, each: int
) -> None:
    """An eighth of memory for all of them, at 1 KiB a message. A given value is used."""
    monkeypatch.setattr(runtime, "resources", lambda: Resources(memory << 20, 1))
    assert core_settings(Config(loops=loops), "n1", cluster=False, hooks=False)["inbox_messages"] == each
    given = Config(loops=loops, inbox_messages=70000)
    assert core_settings(given, "n1", cluster=False, hooks=False)["inbox_messages"] == 70000


# -- values --


@pytest.mark.parametrize("setting", NUMBERS, ids=lambda setting: setting.name)
def test_bounds(setting: Setting) -> None:
    for good in (setting.low, setting.high):
        assert load({setting.name: f"{good:.15g}"}, {})
    for bad in (setting.low - 1, setting.high + 1, setting.high * 10):
        refuse({setting.name: f"{bad:.15g}"}, setting.flag, f"{setting.low:.15g} to {setting.high:.15g}")


@pytest.mark.parametrize("setting", NUMBERS, ids=lambda setting: setting.name)
@pytest.mark.parametrize("bad", ["", "x", "1s", "nan", "inf", "1 2", "0x10", None, True, [1]])
def test_values_that_are_not_numbers(setting: Setting, bad: object) -> None:
    refuse({setting.name: bad}, setting.flag, "number")


def test_decimals_are_for_times() -> None:
    assert load({"ttl": "0.25"}, {}).ttl == 0.25
    refuse({"loops": "1.5"}, "--loops")
    refuse({"loops": 1.5}, "--loops")


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        *(("advertise", bad) for bad in ["x", "0.0.0.0:80", "[::]:80", "x:0", "http://x", "ws://a b", "x" * 256]),
        *(("listen", bad) for bad in ["x", "x:", ":80", "x:99999", "::1:80", "[::1", "[x]:1", "x:-1", "x:²"]),
        *(("admin", bad) for bad in ["x", "localhost"]),
        *(("node", bad) for bad in ["A", "a.b", "a" * 17, "é", "a b"]),
        *(("prefix", bad) for bad in ["a.", ".a", "a..b", "*", ">", "a b", "$x", "a" * 64]),
        *(("nats", bad) for bad in ["http://x", "tls://x/y", "x:0", "x:99999", "x/y", "ws://x", "embedded,off"]),
        *(("nats", bad) for bad in ["off,x", "", "nats://"]),
        ("listen", ""),
        ("prefix", ""),
        ("log-format", "xml"),
        ("log-level", "loud"),
    ],
)
def test_bad_texts(name: str, bad: str) -> None:
    refuse({name: bad}, f"--{name}")


def test_settings_that_contradict_each_other() -> None:
    refuse({"nats-user": "u"}, "--nats-user", "--nats-password")
    refuse({"nats-password": "p"}, "--nats-user", "--nats-password")
    refuse({"nats-nkey": "a", "nats-creds": "b"}, "--nats-nkey", "--nats-creds")
    refuse({"auth": "jwt"}, "--auth", "--auth-key")
    refuse({"auth-key": "k"}, "--auth-key", "--auth jwt")
    refuse({"auth": "jwt", "auth-key": "k", "auth-jwks": "f"}, "--auth-key", "--auth-jwks")
    refuse({"auth-algorithms": "none"}, "--auth-algorithms", "HS256")


def test_secrets_are_not_shown() -> None:
    secrets = [setting for setting in SETTINGS.values() if setting.secret]
    assert {setting.name for setting in secrets} == {"nats-token", "nats-password", "auth-key"}
    with pytest.raises(ConfigError) as refused:
        load({"nats-password": "hunter2"}, {})
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("name", [name for name, setting in SETTINGS.items() if setting.secret])
@pytest.mark.parametrize("bad", [31415926, b"31415926", ["31415926"]])
def test_a_secret_of_another_type_is_not_shown(name: str, bad: object) -> None:
    with pytest.raises(ConfigError, match=f"^--{name} must be a string, not {type(bad).__name__}") as error:
        make_config({name: bad}, {name: f"--{name}"})
    assert "31415926" not in str(error.value)


def test_a_secret_that_can_not_be_encoded() -> None:
    with pytest.raises(ConfigError, match="auth_key"):
        keys_of(make_config({"auth": "jwt", "auth-key": "\ud800" * 32}, {"auth": "auth", "auth-key": "auth_key"}))


def test_lists() -> None:
    one_by_one = load({"listen": ["a:1", "b:2"]}, {})
    at_once = load({"listen": " a:1, b:2 "}, {})
    assert one_by_one.listen == at_once.listen == ("a:1", "b:2")


# -- sources --


def file_of(folder: Path, text: str) -> str:
    file = folder / "engine.toml"
    file.write_text(text, encoding="utf-8")
    return str(file)


def test_flags_win_over_variables_over_the_file(tmp_path: Path) -> None:
    path = file_of(tmp_path, 'node = "file"\nprefix = "file"\nttl = 3\nlisten = ["f:1"]')
    environ = {"SIGNAL_ENGINE_NODE": "env", "SIGNAL_ENGINE_PREFIX": "env", "SIGNAL_ENGINE_LISTEN": ""}
    config = load({"node": "flag"}, environ, path)
    assert (config.node, config.prefix, config.ttl, config.listen) == ("flag", "env", 3.0, ("f:1",))
    assert config.named("node") == "--node"
    assert config.named("prefix") == "SIGNAL_ENGINE_PREFIX"
    assert config.named("ttl") == f"'ttl' in {path}:3"
    assert config.named("max-message") == "--max-message"


def test_the_file_may_be_named_by_a_variable(tmp_path: Path) -> None:
    path = file_of(tmp_path, "ttl = 3")
    assert load({}, {"SIGNAL_ENGINE_CONFIG": path}).ttl == 3
    with pytest.raises(ConfigError, match="SIGNAL_ENGINE_CONFIG"):
        load({}, {"SIGNAL_ENGINE_CONFIG": str(tmp_path / "none")})


def test_foreign_variables_are_ignored() -> None:
    """Kubernetes sets them for a service with this name."""
    load({}, {"SIGNAL_ENGINE_PORT": "tcp://10.0.0.1:80", "SIGNAL_ENGINE_SERVICE_HOST": "10.0.0.1"})


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("loops = [", "not TOML"),
        ("max_message = 4", "'max-message'"),
        ("lisen = 'x:1'", "'listen'"),
        ("qwertz = 1", "serve --help"),
        ("loops = true", "'loops' in"),
        ("loops = 1.0", "whole number"),
        ("node = 7", "quotation marks"),
        ("listen = 8080", "list of strings"),
        ("listen = [1]", "list of strings"),
        ("[serve]\nloops = 1", "'serve' in"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, part: str) -> None:
    path = file_of(tmp_path, text)
    with pytest.raises(ConfigError) as refused:
        load({}, {}, path)
    assert part in str(refused.value) and path in str(refused.value)


def test_files_that_can_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name in ("none", "binary", "."):
        with pytest.raises(ConfigError, match="--config"):
            read_file(str(tmp_path / name), "--config")


# -- drain-url --

BAD_DRAIN_URLS = ["http://b.example/", "b.example", "ws://", "ws://a b/", "ws://a\t/", "wss://" + "x" * 250]


@pytest.mark.parametrize("bad", BAD_DRAIN_URLS)
def test_drain_url_is_a_websocket_url(bad: str) -> None:
    refuse({"drain-url": bad}, "--drain-url", "ws://")
    assert load({"drain-url": "wss://" + "x" * 249}, {}).drain_url


# -- addresses --


@given(st.from_regex(r"[a-z0-9.-]{1,20}", fullmatch=True), st.integers(0, 65535))
def test_addresses_are_split(host: str, port: int) -> None:
    assert split_address(host_port(host, port)) == (host, port)


@given(st.ip_addresses(v=6).map(str), st.integers(0, 65535))
def test_ipv6_addresses_are_split(host: str, port: int) -> None:
    assert split_address(host_port(host, port)) == (host, port)


@given(st.text(max_size=30))
def test_no_text_breaks_the_parsers(text: str) -> None:
    check_url(text)
    try:
        _, port = split_address(text)
    except ValueError:
        return
    assert 0 <= port <= 65535


def test_urls() -> None:
    assert url_of("0.0.0.0", 80) == "ws://127.0.0.1:80/"
    assert url_of("::", 80) == "ws://[::1]:80/"
    assert url_of("10.0.0.1", 80) == "ws://10.0.0.1:80/"


# -- NATS servers --


def test_nats_urls() -> None:
    assert parse_url("h") == parse_url("nats://h:4222") == Server("h", 4222)
    assert parse_url("nats://u:p%40%3A@[::1]:1") == Server("::1", 1, "u", "p@:")
    assert parse_url("nats://t%2Fk@h:1") == Server("h", 1, token="t/k")
    assert parse_url("nats://u:p@h:1").where == "h:1"
    assert parse_url("tls://u:p@h:1") == Server("h", 1, "u", "p", tls=True)
    assert parse_url("tls://t@h:1").url == "tls://h:1"


def test_a_round_goes_through_all_servers() -> None:
    servers = [Server("h", port) for port in range(1, 6)]
    pool = Pool(servers, random.Random(1))
    for rounds in range(1, 4):
        for left in range(5, 0, -1):
            assert len(pool.left()) == left
            pool.drop(pool.left()[0])
        assert pool.left() == ()
        pool.failed()
        assert set(pool.left()) == set(servers)
        assert pool.failed_rounds == rounds


def test_the_delay_grows_to_its_bound() -> None:
    pool = Pool([Server("h", 1)], random.Random(1))
    for bound in (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, LAST_DELAY, LAST_DELAY):
        longest = max(pool.delay() for _ in range(200))
        assert bound * 0.9 < longest <= bound
        pool.failed()
    pool.succeeded()
    assert pool.delay() <= 0.05


def test_announced_servers() -> None:
    pool = Pool([Server("a", 1, "u", "p")], random.Random(1))
    assert pool.learn(["a:1", "b:2", "[::1]:3", "", "7:", "x:y"]) == 3
    assert pool.servers[1:3] == (Server("b", 2, "u", "p"), Server("::1", 3, "u", "p", tls_name="a"))
    secure = Pool([Server("a", 1, tls=True)], random.Random(1))
    assert secure.learn(["b:2", "1.2.3.4:5"]) == 2
    assert secure.servers[1:] == (Server("b", 2, tls=True), Server("1.2.3.4", 5, tls=True, tls_name="a"))
    assert pool.learn(["b:2"]) == 0
    assert pool.servers == (Server("a", 1, "u", "p"), Server("b", 2, "u", "p"))
