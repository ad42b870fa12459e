"""The systemd units are valid and safe, fit the engine, and let it run."""

import contextlib
import errno
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import kit
import wire
from peers import exchange_messages, several
from proxies import DEPLOY
from signal_py.cli.serve import MANAGED_DRAIN, SPARE
from signal_py.config.settings import Config

UNIT = DEPLOY / "systemd" / "signal-engine.service"
SOCKET = DEPLOY / "systemd" / "signal-engine.socket"
PAGE = DEPLOY.parent / "docs" / "systemd.md"
CONFINED = (sys.executable, str(Path(__file__).parents[1] / "support" / "confined.py"), str(UNIT))
CLONE_FILES, CLONE_NEWNET = 0x400, 0x40000000
NOBODY = "65532"


def analyze(*arguments: object) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed: apt-get install systemd")
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)


def settings(unit: Path = UNIT) -> dict[str, str]:
    return dict(re.findall(r"^(\w+)=(.*)$", unit.read_text(encoding="utf-8"), re.MULTILINE))


def command(config: Path) -> list[str]:
    """The arguments of ExecStart, with this file for the settings."""
    program, *arguments = shlex.split(settings()["ExecStart"])
    assert program == "/opt/signal-engine/bin/signal-engine" and arguments[0] == "serve"
    assert arguments.count("/etc/signal-engine/engine.toml") == 1
    return [str(config) if word.startswith("/etc/") else word for word in arguments]


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    """With the programs where they are here."""
    for unit in (UNIT, SOCKET):
        text = unit.read_text(encoding="utf-8").replace("/opt/signal-engine/bin/signal-engine", sys.executable)
        (tmp_path / unit.name).write_text(text, encoding="utf-8")
    done = analyze("verify", "--man=no", *tmp_path.iterdir())
    assert done.returncode == 0 and done.stderr == ""


def test_the_exposure_is_as_low_as_the_page_says() -> None:
    """By the command of the page."""
    page = PAGE.read_text(encoding="utf-8")
    found = re.search(r"^ +(systemd-analyze security .*) signal-engine\.service$", page, re.MULTILINE)
    assert found
    done = analyze(*shlex.split(found[1])[1:], "--offline=true", "--no-pager", UNIT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_command_is_valid(tmp_path: Path) -> None:
    """With the settings that the page shows."""
    page = PAGE.read_text(encoding="utf-8")
    found = re.search(r"^    # /etc/signal-engine/engine\.toml\n((?:    .*\n)+)", page, re.MULTILINE)
    assert found
    file = tmp_path / "engine.toml"
    file.write_text(textwrap.dedent(found[1]).replace("/run/signal-engine", str(tmp_path)), encoding="utf-8")
    _, *flags = command(file)
    done = kit.run("check", *flags)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_times_and_limits_fit() -> None:
    unit = settings()
    assert int(unit["TimeoutStopSec"]) >= MANAGED_DRAIN + Config().close_timeout + SPARE
    assert int(unit["WatchdogSec"]) >= 10
    page = (DEPLOY.parent / "docs" / "deployment.md").read_text(encoding="utf-8")
    assert f"LimitNOFILE={unit['LimitNOFILE']}`" in page
    assert (unit["Type"], unit["KillMode"]) == ("notify", "mixed")
    assert unit["ExecReload"] == "/bin/kill -HUP $MAINPID"
    kernel = (DEPLOY / "sysctl" / "90-signal-engine.conf").read_text(encoding="utf-8")
    assert f"\nnet.core.somaxconn = {settings(SOCKET)['Backlog']}\n" in kernel
    assert settings(SOCKET)["FileDescriptorName"] == "ws"


# -- an engine under the restrictions --


def need_confinement() -> None:
    pytest.importorskip("pyseccomp", reason="needs pyseccomp and libseccomp: pip install pyseccomp", exc_type=Exception)
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed: apt-get install systemd")
    if kit.SANITIZED:
        pytest.skip("a sanitizer makes system calls of its own")


class Confined(kit.Engine):
    """An engine with the unit's command, filters, user, and view of /proc and of files."""

    def __init__(self, toml: str) -> None:
        need_confinement()
        if os.geteuid() != 0:
            pytest.skip("needs root")
        super().__init__({})
        (self.folder / "engine.toml").write_text(toml, encoding="utf-8")
        os.chmod(self.folder, 0o755)
        self.runtime = self.folder / "run"
        self.runtime.mkdir()
        os.chown(self.runtime, int(NOBODY), int(NOBODY))

    def start(self) -> None:
        inside = Path("/run/signal-engine")
        # Unlike a service's, the files of the checkout belong to root, perhaps in its home.
        capabilities = "--inh-caps=-all,+dac_read_search --ambient-caps=+dac_read_search"
        serve = [*kit.python(), "-m", "signal_py", *command(Path("/run/engine.toml")), "--log-format=json"]
        script = f"""
            set -e
            mount --make-rprivate /
            mount -t tmpfs tmpfs /run
            mkdir {inside}
            cp {self.folder}/engine.toml /run/engine.toml
            mount --bind {self.runtime} {inside}
            mount -t tmpfs tmpfs /tmp
            mount -o remount,bind,ro /
            mount -t proc -o hidepid=2,subset=pid proc /proc
            cd /
            umask {settings()["UMask"]}
            exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups {capabilities} --no-new-privs \
                {shlex.join([*CONFINED, *serve])}
        """
        self.spawn(["unshare", "--mount", "sh", "-c", script], kit.clean_environment())
        kit.until(lambda: self._find_ready() or not self.alive(), "it is ready")
        assert self.ready, f"it ended with {self.wait()}:\n{kit.tail(self.log())}"


@contextlib.contextmanager
def confined(toml: str) -> Iterator[Confined]:
    made = Confined(toml)
    try:
        made.start()
        yield made
    finally:
        if made.alive():
            made.end(signal.SIGKILL)


def test_the_engine_runs_under_the_restrictions() -> None:
    """Clients of TCP and of a unix socket, rooms, NATS of its own, a reload and a drain."""
    toml = """
        listen = ["127.0.0.1:0", "unix:/run/signal-engine/ws.sock"]
        admin = "127.0.0.1:0"
        nats = "embedded"
        max-message = 2097152  # such that the NATS server needs a file with its configuration
        loops = 2
        drain-time = 1
        close-timeout = 0.5
    """
    with confined(toml) as engine:
        assert engine.ready["nats_state"] == "up"
        with several(engine.port, 8, "lobby") as crowd, socket.socket(socket.AF_UNIX) as local:
            exchange_messages(*crowd)
            local.settimeout(kit.PATIENCE)
            local.connect(str(engine.runtime / "ws.sock"))
            local.sendall(wire.request())
            assert local.recv(4096).startswith(b"HTTP/1.1 101")
            engine.child.send_signal(signal.SIGHUP)  # type: ignore[union-attr]
            kit.until(lambda: engine.events("reloaded"), "it has reloaded")
            engine.child.terminate()  # type: ignore[union-attr]
            for peer in crowd:
                peer.expect("GOAWAY", "1000")
        assert engine.wait() == 0, kit.tail(engine.log())
    assert b"Traceback" not in engine.log() and not engine.events("refused"), kit.tail(engine.log())


def run_confined(*program: str) -> subprocess.CompletedProcess[str]:
    need_confinement()
    environment = kit.clean_environment()
    return subprocess.run([*CONFINED, *program], capture_output=True, text=True, check=False, env=environment)


def test_the_filter_kills() -> None:
    done = run_confined(sys.executable, "-c", "import os; os.chroot('/')")
    assert done.returncode == -signal.SIGSYS, done.stderr


def test_loops_have_their_own_descriptors() -> None:
    done = run_confined(*kit.python(), "-c", "from signal_py.machine import own_tables; print(own_tables())")
    assert done.stdout == "True\n", done.stderr


@pytest.mark.parametrize(("flags", "error"), [(CLONE_FILES, 0), (CLONE_NEWNET, errno.EPERM)])
def test_namespaces_are_refused(flags: int, error: int) -> None:
    program = f"import ctypes; c = ctypes.CDLL(None, use_errno=True); c.unshare({flags}); print(ctypes.get_errno())"
    done = run_confined(sys.executable, "-c", program)
    assert done.stdout == f"{error}\n", done.stderr


def test_tokens_are_verified() -> None:
    """Also by cryptography, a library of its own."""
    pytest.importorskip("jwt", reason="PyJWT is not installed: pip install pyjwt[crypto]")
    program = """
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
import jwt
key = Ed25519PrivateKey.generate()
print(jwt.decode(jwt.encode({"sub": "ann"}, key, "EdDSA"), key.public_key(), ["EdDSA"]))
"""
    done = run_confined(sys.executable, "-c", program)
    assert done.stdout == "{'sub': 'ann'}\n", done.stderr
