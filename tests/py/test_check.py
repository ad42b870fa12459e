"""The command `check`, and that `serve` reports the same faults."""

import json
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

import kit
from signal_py import Engine
from signal_py.base.errors import ConfigError, Fault, Faults
from signal_py.config.origin import Origin
from signal_py.config.sources import load

FAULTY = """\
# a comment = 1
listen = [
  "127.0.0.1:0", "x",
  "192.0.2.1:80",
]
max_rooms = 3

ttl = "soon"
nats = "off"
nats-creds = "{folder}/none"
nats-tls-ca = "{folder}/none"
auth = "jwt"
auth-key-file = "{folder}/empty"
auth-algorithms = "none"
"""
SAMPLE = 'listen = "127.0.0.1:0"\nmax-burst = 5\nttl = "soon"\nmax_rooms = 3\n'


def write(folder: Path, text: str) -> str:
    (folder / "empty").touch()
    file = folder / "engine.toml"
    file.write_text(text.format(folder=folder), encoding="utf-8")
    return str(file)


def checked(*arguments: str, **environment: str) -> dict[str, Any]:
    done = kit.run("check", "--json", *arguments, **environment)
    found: dict[str, Any] = json.loads(done.stdout)
    assert done.stderr == "" and done.returncode == (0 if found["good"] else 2)
    return found


def test_all_faults_at_once(tmp_path: Path) -> None:
    """Of the file with lines, of variables, of flags, of values, of files that settings name, and of names."""
    file = write(tmp_path, FAULTY)
    environment = {"SIGNAL_ENGINE_LOOPS": "many", "SIGNAL_ENGINE_LISTN": "x"}
    found = checked("--config", file, "--max-rooms", "-1", **environment)
    assert not found["good"]
    places = {
        fault.get("variable") or fault.get("flag") or f"{fault['key']}:{fault['line']}": fault["text"]
        for fault in found["faults"]
    }
    assert {place: text.split(" ")[0] for place, text in places.items()} == {
        "SIGNAL_ENGINE_LISTN": "SIGNAL_ENGINE_LISTN",
        "SIGNAL_ENGINE_LOOPS": "SIGNAL_ENGINE_LOOPS",
        "--max-rooms": "--max-rooms",
        "max_rooms:6": "'max_rooms'",
        "listen:2": "'listen'",
        "ttl:8": "'ttl'",
        "nats-creds:10": "'nats-creds'",
        "nats-tls-ca:11": "'nats-tls-ca'",
        "auth-key-file:13": "'auth-key-file'",
        "auth-algorithms:14": "'auth-algorithms'",
    }
    assert all(text.endswith(".") for text in places.values())
    done = kit.run("serve", "--config", file, "--max-rooms", "-1", **environment)
    served = [line.removeprefix("signal-engine: ") for line in done.stderr.splitlines()]
    assert done.returncode == 2 and served == [fault["text"] for fault in found["faults"]]
    shown = kit.run("check", "--config", file, "--max-rooms", "-1", **environment)
    lines = shown.stdout.splitlines()
    assert [line.removeprefix("fault    ") for line in lines[: len(served)]] == served
    assert lines[-1] == "10 faults, 2 warnings" and shown.returncode == 2


def test_faults_that_an_engine_meets_when_it_starts(tmp_path: Path) -> None:
    """Settings that are good by themselves: serve reports all of these, too."""
    text = """
        listen = ["127.0.0.1:0", "192.0.2.1:80", "nohost.invalid:80"]
        nats = "tls://127.0.0.1"
        nats-creds = "{folder}/none"
        nats-tls-ca = "{folder}/none"
        nats-tls-cert = "{folder}/empty"
        nats-tls-key = "{folder}"
        auth = "jwt"
        auth-jwks = "{folder}/empty"
        admin = "192.0.2.1:80"
    """
    file = write(tmp_path, text)
    faults = checked("--config", file)["faults"]
    keys = ["nats-creds", "nats-tls-ca", "nats-tls-key", "auth-jwks", "listen", "admin"]
    assert sorted(fault["key"] for fault in faults) == sorted(keys)
    done = kit.run("serve", "--config", file)
    served = {line.removeprefix("signal-engine: ") for line in done.stderr.splitlines() if "signal-engine: " in line}
    assert done.returncode == 2 and served == {fault["text"] for fault in faults}


def test_a_fault_has_no_followers() -> None:
    """A setting that can't be used is not blamed for a missing partner."""
    with pytest.raises(ConfigError) as error:
        load({"auth": "jwtt", "auth-key": "x" * 32, "nats-user": "u"}, {})
    assert [fault.setting for fault in error.value.faults] == ["auth", "nats-user"]
    assert str(error.value).count("\n") == 1


def test_mistyped_flags_and_keywords_at_once() -> None:
    done = kit.run("check", "--ttll", "3", "--lops=2", "--ttll", "4")
    lines = [line.split(" ")[1] for line in done.stderr.splitlines()]
    assert done.returncode == 2 and lines == ["--ttll", "--lops"] and "write --loops: see" in done.stderr
    with pytest.raises(ConfigError) as error:
        Engine(ttll=3, lops=2, max_rooms=-1)  # type: ignore[call-arg]
    assert [line.split(" ")[1] for line in str(error.value).splitlines()] == ["lops", "ttll", "max_rooms"]


def test_what_is_not_toml(tmp_path: Path) -> None:
    """The other sources are checked nevertheless."""
    file = write(tmp_path, "loops = 1\nttl = 3 s\nnode = [")
    faults = checked("--config", file, SIGNAL_ENGINE_TTL="x")["faults"]
    assert [(fault.get("line"), fault.get("variable")) for fault in faults] == [(2, None), (None, "SIGNAL_ENGINE_TTL")]


def test_good_settings(tmp_path: Path) -> None:
    file = write(tmp_path, 'listen = "127.0.0.1:0"\nnats = "off"\n')
    assert checked("--config", file) == {"good": True, "faults": [], "warnings": []}
    done = kit.run("check", "--config", file)
    assert (done.returncode, done.stdout, done.stderr) == (0, "the configuration is good\n", "")


def test_a_port_in_use_is_a_warning() -> None:
    """The engine that is to be restarted may have it."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        where = f"127.0.0.1:{other.getsockname()[1]}"
        for name in ("listen", "admin"):
            given = {"listen": "127.0.0.1:0", "nats": "off"} | {name: where}
            found = checked(*kit.flags(given))
            assert found["good"] and [(each["setting"], each["flag"]) for each in found["warnings"]] == [
                (name, f"--{name}")
            ]
            assert f"--{name} {where} is in use" in found["warnings"][0]["text"]


def test_a_unix_socket_in_use_is_a_warning(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as path, socket.socket(socket.AF_UNIX) as name:
        path.bind(str(tmp_path / "s"))
        path.listen()
        name.bind(f"\0signal-check-{tmp_path}")
        for where in (f"unix:{tmp_path}/s", f"unix:@signal-check-{tmp_path}"):
            found = checked("--listen", where, "--nats", "off")
            assert found["good"] and f"--listen {where} is in use" in found["warnings"][0]["text"]


def test_a_unix_socket_for_two_purposes(tmp_path: Path) -> None:
    where = f"unix:{tmp_path}/s"
    found = checked("--listen", where, "--admin", where, "--nats", "off")
    assert [fault["setting"] for fault in found["faults"]] == ["admin"]


def test_the_proxy_protocol_needs_trusted_proxies(tmp_path: Path) -> None:
    given = ["--nats=off", "--proxy-protocol=on"]
    found = checked(*given, "--listen=127.0.0.1:0")["warnings"]
    assert [fault["text"].partition(" while ")[2] for fault in found] == [
        "trusted-proxies is empty: set trusted-proxies."
    ]
    assert checked(*given, f"--listen=unix:{tmp_path}/s")["warnings"] == []
    assert checked(*given, "--listen=127.0.0.1:0", "--trusted-proxies=127.0.0.1")["warnings"] == []


def test_sockets_of_a_service_are_not_there_in_a_shell() -> None:
    found = checked("--listen", "fd:ws", "--nats", "off")
    assert found["good"] and "fd:ws is not a socket that systemd passed" in found["warnings"][0]["text"]


def test_one_address_for_two_purposes() -> None:
    found = checked("--listen", "0.0.0.0:18080", "--admin", "127.0.0.1:18080", "--nats", "off")
    assert [fault["setting"] for fault in found["faults"]] == ["admin"]


def test_warnings() -> None:
    """Settings without effect, visible and weak secrets, hosts that are unknown now."""
    quiet = {"listen": "127.0.0.1:0", "nats": "nats://nohost.invalid"}
    secret = {"auth": "jwt", "auth-key": "short but long enough"}
    found = checked(*kit.flags({**quiet, **secret, "max_burst": 3}))
    assert found["good"]
    assert sorted((each["flag"], each["text"].partition(" ")[0]) for each in found["warnings"]) == [
        ("--auth-key", "--auth-key"),
        ("--auth-key", "--auth-key:"),
        ("--max-burst", "--max-burst"),
        ("--nats", "--nats"),
    ]
    assert "short but long enough" not in json.dumps(found)


def test_what_only_programs_may_give() -> None:
    found = checked("--auth", "callback", "--nats", "off", "--listen", "127.0.0.1:0")
    assert "embed" in found["faults"][0]["text"]
    assert "embed" in kit.complaint(kit.run("serve", "--auth", "callback", "--nats", "off"))


def test_origins() -> None:
    assert Origin.of_key("ttl", "e.toml", 3) == "'ttl' in e.toml:3"
    assert Origin.of_key("ttl", "e.toml", 0).fields() == {"file": "e.toml", "key": "ttl"}
    assert Origin.of_variable("X").fields() == {"variable": "X"}


def test_faults_are_collected() -> None:
    faults = Faults()
    with faults.of("a", "--a"):
        raise ConfigError("one", Fault("two", "b"))
    assert faults.found == [Fault("one", "a", "--a"), Fault("two", "b", "--a")]
    assert faults.blame("x", "b") and not faults.blame("x")
    with pytest.raises(ConfigError, match="one\ntwo"):
        faults.raise_all()


def test_the_sample_of_the_docs(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    sample = page.partition("signal-engine check --config")[2].partition("```\n")[2].partition("```")[0]
    (tmp_path / "engine.toml").write_text(SAMPLE, encoding="utf-8")
    command = [*kit.python(), "-m", "signal_py", "check", "--config", "engine.toml"]
    environment = kit.clean_environment()
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert sorted(done.stdout.splitlines()) == sorted(sample.splitlines())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("doctor", "--connections", "x"), "--connections must be a whole number, not 'x'"),
        (("top", "--interval", "x"), "--interval must be a number, not 'x'"),
    ],
)
def test_an_option_that_is_no_number(arguments: tuple[str, ...], sentence: str) -> None:
    assert sentence in kit.complaint(kit.run(*arguments))
