"""Files that settings name: opened anew by their path, and read within bounds."""

import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kit
from mount import Mount
from signal_py.base import files
from signal_py.base.errors import ConfigError
from signal_py.config.load import make_config
from signal_py.config.settings import SETTINGS

FILES = (
    *("nats-nkey", "nats-creds", "nats-tls-ca", "nats-tls-cert", "nats-tls-key", "auth-key-file", "auth-jwks"),
    *("admin-tls-cert", "admin-tls-key", "admin-tls-client-ca"),
)


@settings(max_examples=30)
@given(st.binary(max_size=300_000))
def test_a_file_is_read_completely(data: bytes) -> None:
    path = f"/tmp/signal-test-files-{os.getpid()}"
    try:
        Path(path).write_bytes(data)
        assert files.read(path) == data
        assert files.read(path, len(data)) == data
        if data:
            with pytest.raises(OSError, match="longer than"):
                files.read(path, len(data) - 1)
    finally:
        os.unlink(path)


def test_a_swapped_file_is_followed(tmp_path: Path) -> None:
    mount = Mount(tmp_path / "keys", key="old")
    path = files.from_here(str(mount / "key"))
    assert path == str(mount / "key") and files.read(path) == b"old"
    mount.swap(key="new")
    assert files.read(path) == b"new"


def test_the_settings_that_name_files() -> None:
    """A new one must be opened as these are."""
    assert tuple(name for name, setting in SETTINGS.items() if setting.is_file) == FILES


@pytest.mark.parametrize("name", FILES)
def test_a_relative_path_outlives_a_change_of_the_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Symlinks are kept, so that a later swap is followed. `..` is resolved by the file system, not in the text."""
    (tmp_path / "real" / "below").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real/below")
    monkeypatch.chdir(tmp_path)
    given = {name: "link/../key", "auth": "jwt", "nats-tls-cert": "c", "nats-tls-key": "k", "auth-key-file": ""}
    if name.startswith("admin-"):
        given |= {"admin": "127.0.0.1:0", "admin-tls-cert": "c", "admin-tls-key": "k"}
    if not name.startswith("auth-"):
        given["auth"] = "off"
    given[name] = "link/../key"
    config = make_config(given, {each: each for each in given})
    found = getattr(config, SETTINGS[name].field)
    assert found == f"{tmp_path}/link/../key"
    monkeypatch.chdir("/")
    (tmp_path / "real" / "key").write_bytes(b"here")
    assert files.read(found) == b"here"


def test_a_url_is_not_a_path() -> None:
    given = {"auth": "jwt", "auth-jwks": "https://host/keys"}
    assert make_config(given, {each: each for each in given}).auth_jwks == "https://host/keys"


def test_a_working_directory_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    given = {"auth": "jwt", "auth-jwks": "keys"}
    with pytest.raises(
        ConfigError, match="auth-jwks keys is relative to the working directory, which no longer exists"
    ):
        make_config(given, {each: each for each in given})


def test_a_pipe_is_read_to_its_end() -> None:
    """As with `--auth-key-file <(…)`."""
    out, into = os.pipe()

    def write() -> None:
        for part in (b"a" * 70_000, b"b" * 70_000):
            os.write(into, part)
        os.close(into)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert files.read(f"/proc/self/fd/{out}") == b"a" * 70_000 + b"b" * 70_000
    finally:
        writer.join()
        os.close(out)


def test_a_pipe_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PIPE_TIMEOUT", 0.05)
    out, into = os.pipe()
    os.write(into, b"x")
    try:
        with pytest.raises(OSError, match="did not end within"):
            files.read(f"/proc/self/fd/{out}")
    finally:
        os.close(out)
        os.close(into)


@pytest.fixture
def bad_files(tmp_path: Path) -> dict[str, str]:
    """Paths that are not usable files, by kind."""
    made = {"missing": tmp_path / "missing", "folder": tmp_path / "folder", "pipe": tmp_path / "pipe"}
    made |= {"empty": tmp_path / "empty", "bytes": tmp_path / "bytes", "huge": tmp_path / "huge"}
    made["folder"].mkdir()
    os.mkfifo(made["pipe"])
    made["empty"].touch()
    made["bytes"].write_bytes(b"\xff\xfe\xfd" * 20)
    with made["huge"].open("wb") as file:
        file.truncate(1 << 40)
    return {name: str(path) for name, path in made.items()} | {"endless": "/dev/zero"}


WRONG = ("missing", "folder", "pipe", "empty", "bytes", "huge", "endless")
SERVE = ("serve", "--listen", "127.0.0.1:0")


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("name", ["nats-nkey", "nats-creds", "nats-tls-ca", "auth-jwks", "config"])
def test_a_bad_file_is_an_error_in_one_line(name: str, what: str, bad_files: dict[str, str]) -> None:
    """In serve, at once, and without reading more than the bound."""
    if (name, what) == ("config", "empty"):
        pytest.skip("an empty file of settings is good")
    more = {"auth-jwks": ("--auth", "jwt", "--nats", "off"), "config": ("--nats", "off")}
    arguments = more.get(name, ("--nats", "tls://127.0.0.1:1" if "tls" in name else "nats://127.0.0.1:1"))
    error = kit.complaint(kit.run(*SERVE, *arguments, f"--{name}", bad_files[what]))
    assert f"--{name} {bad_files[what]}" in error


@pytest.mark.parametrize("what", ["missing", "folder", "pipe", "empty", "huge", "endless"])
@pytest.mark.parametrize("command", ["serve", "token"])
def test_a_bad_key_file(command: str, what: str, bad_files: dict[str, str]) -> None:
    flag = {"serve": "--auth-key-file", "token": "--key-file"}[command]
    more = (*SERVE[1:], "--nats", "off", "--auth", "jwt") if command == "serve" else ()
    error = kit.complaint(kit.run(command, *more, flag, bad_files[what]))
    assert f"{flag} {bad_files[what]}" in error


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("name", ["nats-nkey", "nats-creds", "nats-tls-ca"])
def test_a_bad_file_of_an_operator(name: str, what: str, bad_files: dict[str, str]) -> None:
    url = "tls://127.0.0.1:1" if "tls" in name else "nats://127.0.0.1:1"
    error = kit.complaint(kit.run("ctl", "nodes", "--nats", url, f"--{name}", bad_files[what]))
    assert f"--{name} {bad_files[what]}" in error
