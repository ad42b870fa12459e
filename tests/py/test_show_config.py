"""The command `config`."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kit
from signal_py.cli.show_config import _table, _toml, rows_of
from signal_py.config.load import make_config
from signal_py.config.settings import SETTINGS, Config
from signal_py.config.sources import load
from signal_py.config.types import Setting

SECRETS = {"nats-user": "ann", "nats-password": "s3cret", "auth-key": "s3cret" * 6, "auth": "jwt"}


def shown(*arguments: str, **environment: str) -> list[dict[str, Any]]:
    done = kit.run("config", "--json", *arguments, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_every_setting_and_where_it_came_from(tmp_path: Path) -> None:
    file = tmp_path / "engine.toml"
    file.write_text('# x\nttl = 3\nnode = "n1"\n', encoding="utf-8")
    rows = shown("--config", str(file), "--loops", "3", "--node", "n2", SIGNAL_ENGINE_PREFIX="p")
    assert [row["setting"] for row in rows] == list(SETTINGS)
    assert {row["setting"]: row["from"] for row in rows if row["from"] != "default"} == {
        "ttl": {"file": str(file), "line": 2, "key": "ttl"},
        "loops": {"flag": "--loops"},
        "node": {"flag": "--node"},
        "prefix": {"variable": "SIGNAL_ENGINE_PREFIX"},
    }
    for row in rows:
        assert row["meaning"] == SETTINGS[row["setting"]].help
        assert row["value"] == row["default"] or row["from"] != "default"
    here = {row["setting"]: row["here"] for row in rows if "here" in row}
    assert list(here) == ["backlog-total", "input-total", "inbox-messages"] and all(here.values())
    changed = kit.run("config", "--config", str(file), "--changed", "--ttl", "10").stdout.splitlines()
    assert [line.split()[:4] for line in changed] == [
        ["setting", "value", "from", "default"],
        ["node", "n1", f"{file}:3", "-"],
    ]


def test_secrets_are_hidden() -> None:
    flags = {**SECRETS, "drain-url": "wss://h/?token=s3cret"}
    for nats in ("nats://s3cret@h", "nats://u:s3cret@h", "u:s3cret@h"):
        for form in ([], ["--json"], ["--toml"]):
            done = kit.run("config", *form, *kit.flags({**flags, "nats": nats}), SIGNAL_ENGINE_NATS_TOKEN="s3cret")
            assert done.returncode == 0 and "s3cret" not in done.stdout and "nats-password" in done.stdout


def test_faults_are_reported() -> None:
    done = kit.run("config", "--ttl", "x", SIGNAL_ENGINE_LOOPS="y")
    assert done.returncode == 2 and done.stdout == ""
    assert [line.split()[1] for line in done.stderr.splitlines()] == ["SIGNAL_ENGINE_LOOPS", "--ttl"]


def values(setting: Setting) -> st.SearchStrategy[Any]:
    if setting.kind in (int, float):
        return st.integers(max(int(setting.low), 1), int(min(setting.high, setting.low + 1000)))
    if setting.choices:
        return st.sampled_from(setting.choices).filter(lambda choice: choice not in ("callback", "jwt"))
    return st.just(setting.default)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
TEXTS = {"auth-audience": TEXT, "auth-issuer": TEXT}


@given(st.fixed_dictionaries({}, optional={name: values(one) for name, one in SETTINGS.items()} | TEXTS))
def test_the_file_is_accepted_again(chosen: dict[str, Any]) -> None:
    """Whatever the settings are, and with any characters in them."""
    config = make_config(chosen, dict.fromkeys(chosen, "x"))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "engine.toml")
        file.write_text("\n".join(_toml(rows_of(config))), encoding="utf-8", newline="")
        again = load({}, {}, str(file))
    assert {name: getattr(again, one.field) for name, one in SETTINGS.items()} == {
        name: getattr(config, one.field) for name, one in SETTINGS.items()
    }


@pytest.mark.parametrize("width", [0, 80, 200])
def test_the_table_fits(width: int) -> None:
    """On a terminal, one line for each setting, and no line that is longer than it must be."""
    lines = list(_table(rows_of(Config()), width))
    assert len(lines) == len(SETTINGS) + 1
    assert any(line.endswith("…") for line in lines) == (width != 0)
    if width == 200:
        assert max(map(len, lines)) <= width
