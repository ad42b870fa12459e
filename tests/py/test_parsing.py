"""Errors for mistyped commands, flags, variables and keys suggest the right one; help and version in all forms;
completion in shells."""

import contextlib
import os
import pty
import shutil
import subprocess
from pathlib import Path

import pytest

import kit
from kit import complaint
from signal_py import ConfigError
from signal_py.base.version import VERSION
from signal_py.cli import main as cli
from signal_py.cli.completion import SHELLS
from signal_py.config.parsing import check_variables, commands_of, flags_of
from signal_py.config.settings import SETTINGS


def module(*words: str) -> "subprocess.CompletedProcess[str]":
    command = [*kit.python(), "-m", "signal_py", *words]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=kit.PATIENCE, env=kit.clean_environment(), cwd="/", check=False
    )


@pytest.mark.parametrize("words", [["--version"], ["-V"], ["version"]])
def test_version(words: list[str]) -> None:
    for done in (kit.run(*words), module(*words)):
        assert (done.returncode, done.stdout, done.stderr) == (0, f"signal-engine {VERSION}\n", "")


@pytest.mark.parametrize("words", [[], ["serve"], ["ctl"], ["ctl", "nodes"], ["help"], ["completion"]])
def test_help(words: list[str]) -> None:
    """`help serve` is `serve --help`."""
    asked, flag = kit.run("help", *words), kit.run(*words, "--help")
    assert asked.stdout == flag.stdout and (asked.returncode, flag.returncode) == (0, 0)
    assert asked.stdout.startswith(f"usage: {' '.join(['signal-engine', *words])} ") and asked.stderr == ""


def test_help_of_an_unknown_command() -> None:
    assert "'serv' is not a command: write serve" in complaint(kit.run("help", "serv"))


def test_help_that_can_not_be_written() -> None:
    for words in ("--version", "--help", "help", "version"):
        line = f"{' '.join(kit.python())} -m signal_py {words} > /dev/full"
        done = subprocess.run(line, shell=True, capture_output=True, text=True, cwd="/", check=False)
        assert done.returncode == 1 and done.stderr.count("\n") == 1 and "No space" in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["serv"], "'serv' is not a command: write serve: see 'signal-engine --help'"),
        (["zzz"], "'zzz' is not a command: use one of serve, check, config, doctor, sub, pub"),
        (["ctl", "node"], "'node' is not a command: write nodes: see 'signal-engine ctl --help'"),
        (
            ["serve", "--max-mesage", "5"],
            "--max-mesage is not an option of 'signal-engine serve': write --max-message: ",
        ),
        (["serve", "--max-mesage=5"], "--max-mesage is not an option of 'signal-engine serve': write --max-message: "),
        (["serve", "--zzzzzz"], "--zzzzzz is not an option of 'signal-engine serve': see 'signal-engine serve --help'"),
        (["sub", "--jsno", "lobby"], "--jsno is not an option of 'signal-engine sub': write --json: see"),
        (["ctl", "rooms", "--limt", "3"], "--limt is not an option of 'signal-engine ctl rooms': write --limit: see"),
        (
            ["pub", "-u", "x", "a"],
            "-u is not an option of 'signal-engine pub': write -- before it if it is an argument: see",
        ),
        (["pub", "a", "-zzz"], "-zzz is not an option of 'signal-engine pub': write -- before it"),
        (["pub", "a", "b", "c"], "'c' is an extra argument for 'signal-engine pub': see"),
        (["--versoin"], "the following arguments are required: COMMAND: see 'signal-engine --help'"),
    ],
)
def test_a_mistyped_word(words: list[str], message: str) -> None:
    assert complaint(kit.run(*words)).startswith(f"signal-engine: {message}")


@pytest.mark.parametrize("words", [["serv"], ["pub"], ["serve", "--node=A"], ["drain", "--admin=x"]])
def test_the_exit_status_of_an_error_that_nobody_reads(words: list[str]) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    try:
        command = [*kit.python(), "-m", "signal_py", *words]
        assert subprocess.run(command, env=kit.clean_environment(), stderr=theirs, cwd="/", check=False).returncode == 2
    finally:
        os.close(theirs)


@pytest.mark.parametrize(
    "words",
    [
        ["serve", "--nats=nats://u:s3cret@h:99999"],
        ["serve", "--nats=nats://u:s3cr/s3cret@h"],
        ["serve", "--nats=u:s3cret@h:99999"],
        ["serve", "--nats=http://u:s3cret@h"],
        ["ctl", "nodes", "--nats=http://u:s3cret@h"],
        ["pub", "--url=http://u:s3cret@127.0.0.1:1/", "a", "b"],
        ["pub", "--url=ws://u:s3cret@127.0.0.1:1/", "a", "b"],
        ["drain", "--admin=http://u:s3cret@127.0.0.1:1/"],
        ["drain", "--admin=ws://u:s3cret@127.0.0.1:1/"],
    ],
)
def test_passwords_are_not_shown(words: list[str]) -> None:
    assert "s3cret" not in complaint(kit.run(*words))


@pytest.mark.parametrize(
    ("words", "name", "meant"),
    [
        (["serve"], "SIGNAL_ENGINE_MAX_MESAGE", "SIGNAL_ENGINE_MAX_MESSAGE"),
        (["serve"], "SIGNAL_ENGINE_ATUH", "SIGNAL_ENGINE_AUTH"),
        (["serve"], "SIGNAL_ENGINE_CONFG", "SIGNAL_ENGINE_CONFIG"),
        (["sub", "lobby"], "SIGNAL_ENGINE_ULR", "SIGNAL_ENGINE_URL"),
        (["pub", "lobby", "x"], "SIGNAL_ENGINE_TOKN", "SIGNAL_ENGINE_TOKEN"),
        (["drain"], "SIGNAL_ENGINE_ADMN", "SIGNAL_ENGINE_ADMIN"),
        (["ctl", "nodes"], "SIGNAL_ENGINE_NAST", "SIGNAL_ENGINE_NATS"),
    ],
)
def test_a_mistyped_variable(words: list[str], name: str, meant: str) -> None:
    error = complaint(kit.run(*words, **{name: "x"}))
    assert error == f"signal-engine: {name} is not a variable of signal-engine: write {meant}, or unset it.\n"


def test_foreign_variables_are_ignored() -> None:
    """Those of Kubernetes for a service with this name, those of other commands, and unsimilar ones."""
    known = [setting.variable for setting in SETTINGS.values()]
    for name in known:
        check_variables({name: "x"}, known, known)
        with pytest.raises(ConfigError, match=name):
            check_variables({name + "X": "x"}, known, known)
        check_variables({name + "X": "x"}, known, ())
    for name in (
        *("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT", "PORT_8080_TCP", "PORT_8080_TCP_PROTO"),
        *("PORT_8080_TCP_PORT", "PORT_8080_TCP_ADDR", "PORT_53_UDP", "IMAGE", "HOME", "VERSION", "DEBUG"),
    ):
        check_variables({f"SIGNAL_ENGINE_{name}": "x", "SIGNAL_ENGINX_LISTEN": "x"}, known, known)


def test_a_mistyped_key(tmp_path: Path) -> None:
    file = tmp_path / "engine.toml"
    file.write_text("max-mesage = 5\n")
    assert f"'max-mesage' in {file}:1 is not a setting: write 'max-message'" in complaint(
        kit.run("serve", "--config", str(file))
    )


# -- completion --

CASES = [
    (["ser"], "serve"),
    (["serve", "--max-mess"], "--max-message"),
    (["serve", "--auth", "cal"], "callback"),
    (["serve", "--log-level", "war"], "warning"),
    (["ctl", "disc"], "disconnect"),
    (["ctl", "rooms", "--lim"], "--limit"),
    (["serve", "--config", "engine.to"], "engine.toml"),
    (["pub", "--file", "engine.to"], "engine.toml"),
    (["completion", "fi"], "fish"),
]
BASH = """
source {script}
COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
$(complete -p signal-engine | sed -E 's/.*-F ([^ ]+).*/\\1/') signal-engine
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
FISH = "source {script}; complete -C '{line}'"
ZSH = "PS1=; fpath=({folder} $fpath); autoload -U compinit; compinit -u -d {folder}/dump; bindkey '^I' complete-word\n"


def offered(shell: str, folder: Path, words: list[str]) -> str:
    """The completions that a shell offers for the last word."""
    line = " ".join(["signal-engine", *words])
    quoted = " ".join(f"'{word}'" for word in line.split())
    code = (BASH if shell == "bash" else FISH).format(script=folder / "_signal-engine", words=quoted, line=line)
    command = [shell, "--norc" if shell == "bash" else "--no-config", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=kit.PATIENCE, cwd=folder, check=False)
    assert done.stderr == "", done.stderr
    return done.stdout


def typed_into_zsh(folder: Path, words: list[str], wanted: str) -> None:
    """Asserts that zsh completes the word; it does so only in its line editor, on a terminal."""
    ours, theirs = pty.openpty()
    environment = {"PATH": os.environ["PATH"], "TERM": "dumb", "HOME": str(folder), "LC_ALL": "C.UTF-8"}
    streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    child = subprocess.Popen(["zsh", "-f", "-i"], cwd=folder, env=environment, start_new_session=True, **streams)
    os.close(theirs)
    os.set_blocking(ours, False)
    shown = b""

    def reads(text: str) -> bool:
        nonlocal shown
        with contextlib.suppress(BlockingIOError):
            shown += os.read(ours, 4096)
        return text.encode() in shown

    try:
        os.write(ours, ZSH.format(folder=folder).encode() + b"echo rea''dy\n")
        kit.until(lambda: reads("\nready") or reads("\rready"), "zsh is ready")
        shown = b""
        os.write(ours, f"signal-engine {' '.join(words)}\t".encode())
        kit.until(lambda: reads(wanted), f"zsh completes {wanted}")
    finally:
        child.kill()
        child.wait()
        os.close(ours)


@pytest.mark.parametrize("shell", SHELLS)
def test_completion(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed: apt-get install {shell}")
    (tmp_path / "engine.toml").touch()
    done = kit.run("completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "_signal-engine").write_text(done.stdout)
    for words, wanted in CASES:
        if shell == "zsh":
            typed_into_zsh(tmp_path, words, wanted)
        else:
            words_offered = [line.split("\t")[0].rstrip() for line in offered(shell, tmp_path, words).splitlines()]
            assert words_offered == [wanted], words


def test_completion_knows_all_commands_and_flags() -> None:
    for shell in SHELLS:
        text = kit.run("completion", shell).stdout
        for name, command in commands_of(cli._parser()).items():
            assert name in text
            for flag in flags_of(command):
                assert flag.lstrip("-") in text, (shell, flag)
