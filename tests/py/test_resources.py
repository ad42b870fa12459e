"""The memory and processors that the process may use: control groups of both versions, real ones and trees of files."""

import contextlib
import math
import os
import resource
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kit
from signal_py.base.resources import (
    LEAST_MEMORY,
    MIB,
    Group,
    limits_of_groups,
    names_below,
    parse_bytes,
    parse_groups,
    parse_mounts,
    parse_quota,
    resources,
)
from wire import BINARY, frame, opened

V1_ROOT = Path("/sys/fs/cgroup")
NO_LIMIT = "9223372036854771712"
Tree = Callable[..., Path]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    def make(own: str, mounts: list[str]) -> Path:
        write(tmp_path / "proc/self/cgroup", own)
        write(tmp_path / "proc/self/mountinfo", "".join(mounts))
        return tmp_path

    return make


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def fill(root: Path, folder: str, **files: str) -> None:
    for name, text in files.items():
        write(root / "sys/fs/cgroup" / folder / name.replace("__", "."), text + "\n")


def v2_mount(root: str = "/", point: str = "/sys/fs/cgroup") -> str:
    return f"29 23 0:26 {root} {point} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


def v1_mount(controllers: str, root: str = "/") -> str:
    return f"31 23 0:28 {root} /sys/fs/cgroup/{controllers} rw shared:9 - cgroup cgroup rw,{controllers}\n"


def test_the_lowest_limit_on_the_path_counts(tree: Tree) -> None:
    root = tree("0::/node.slice/engine.service\n", [v2_mount()])
    fill(root, "node.slice", memory__max=str(256 * MIB), cpu__max="300000 100000")
    fill(root, "node.slice/engine.service", memory__max="max", memory__high="max", cpu__max="50000 100000")
    assert limits_of_groups(root) == Group(256 * MIB, 0.5)
    fill(root, "node.slice/engine.service", memory__max=str(64 * MIB))
    assert limits_of_groups(root).memory == 64 * MIB
    fill(root, "node.slice", memory__high=str(32 * MIB))
    assert limits_of_groups(root).memory == 32 * MIB


def test_a_container_sees_its_own_group_at_the_root(tree: Tree) -> None:
    root = tree("0::/\n", [v2_mount()])
    fill(root, "", memory__max=str(100 * MIB), cpu__max="150000 100000")
    assert limits_of_groups(root) == Group(100 * MIB, 1.5)


def test_version_1(tree: Tree) -> None:
    """The mount may show the container's group, or all groups; one hierarchy may have two controllers."""
    root = tree(
        "5:memory:/docker/abc/deep\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n",
        [v1_mount("memory", "/docker/abc"), v1_mount("cpu,cpuacct")],
    )
    fill(root, "memory", memory__limit_in_bytes=str(300 * MIB))
    fill(root, "memory/deep", memory__limit_in_bytes=NO_LIMIT)
    fill(root, "cpu,cpuacct/docker", cpu__cfs_quota_us="250000", cpu__cfs_period_us="100000")
    fill(root, "cpu,cpuacct/docker/abc", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    assert limits_of_groups(root) == Group(300 * MIB, 2.5)


def test_both_versions_at_once(tree: Tree) -> None:
    root = tree("4:memory:/a\n0::/b\n", [v1_mount("memory"), v2_mount(point="/sys/fs/cgroup/unified")])
    fill(root, "memory/a", memory__limit_in_bytes=str(10 * MIB))
    fill(root, "unified/b", cpu__max="20000 10000")
    assert limits_of_groups(root) == Group(10 * MIB, 2.0)


def test_no_limit_and_nothing_to_read(tree: Tree, tmp_path: Path) -> None:
    root = tree("0::/a\n", [v2_mount()])
    assert limits_of_groups(root) == Group()
    fill(root, "a", memory__max="max", cpu__max="max 100000")
    assert limits_of_groups(root) == Group()
    (root / "sys/fs/cgroup/a/cpu.max").unlink()
    (root / "sys/fs/cgroup/a/cpu.max").mkdir()
    assert limits_of_groups(root) == Group()
    assert limits_of_groups(tmp_path / "nothing") == Group()


def test_without_proc_the_usual_folders_are_read(tmp_path: Path) -> None:
    fill(tmp_path, "", memory__max=str(90 * MIB), cpu__max="100000 100000")
    assert limits_of_groups(tmp_path) == Group(90 * MIB, 1.0)
    fill(tmp_path, "memory", memory__limit_in_bytes=str(80 * MIB))
    assert limits_of_groups(tmp_path).memory == 80 * MIB


def test_another_group_that_is_mounted_does_not_count(tree: Tree) -> None:
    root = tree("0::/mine\n", [v2_mount(), v2_mount("/other", "/sys/fs/cgroup/seen")])
    fill(root, "mine", memory__max=str(50 * MIB))
    fill(root, "seen", memory__max=str(2 * MIB))
    assert limits_of_groups(root).memory == 50 * MIB


def test_spaces_and_colons_in_names(tree: Tree) -> None:
    root = tree("0::/a b:c\n", [v2_mount(point="/sys/fs/cgroup/my\\040mount")])
    fill(root, "my mount/a b:c", memory__max=str(70 * MIB))
    assert limits_of_groups(root).memory == 70 * MIB


@pytest.mark.parametrize(
    ("root", "path", "names"),
    [
        ("/", "/", []),
        ("/", "/a/b", ["a", "b"]),
        ("/a", "/a/b", ["b"]),
        ("/a/b", "/a/b", []),
        ("/a", "/ab", None),
        ("/a/b", "/a", None),
        ("/..", "/", []),  # mounted before the namespace was made: the folders between have no names
        ("/../..", "/a", []),
        ("/..", "/../x", ["x"]),
        ("/", "/../x", None),  # the process is outside of its namespace
        ("/../y", "/../x", None),
    ],
)
def test_the_path_of_a_group_below_a_mount(root: str, path: str, names: list[str] | None) -> None:
    assert names_below(root, path) == names


@pytest.mark.parametrize(
    ("text", "processors"),
    [("50000 100000", 0.5), ("-1 100000", math.inf), ("max 100000", math.inf), ("1 0", math.inf), ("", math.inf)],
)
def test_quotas(text: str, processors: float) -> None:
    assert parse_quota(text) == processors


def test_values_for_no_limit() -> None:
    assert parse_bytes(NO_LIMIT) == parse_bytes("max") == parse_bytes("") == parse_bytes("-1") == math.inf
    assert parse_bytes("268435456\n") == 256 * MIB and parse_bytes("0") == 0


NAMES = st.lists(st.sampled_from(["a", "b", "..", "engine.service", "x y"]), max_size=4)


@given(NAMES, NAMES)
def test_names_lead_from_the_mount_to_the_group(root: list[str], path: list[str]) -> None:
    found = names_below("/" + "/".join(root), "/" + "/".join(path))
    if found:
        assert [*root, *found] == path
    elif root == path:
        assert found == []


@given(st.text(), st.text(), st.text())
def test_any_files(own: str, mounts: str, limit: str) -> None:
    """With any content of the files there is a result."""
    parse_groups(own), parse_mounts(mounts)
    assert parse_bytes(limit) >= 0 and parse_quota(limit) > 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, text in (("cgroup", own), ("mountinfo", mounts + v2_mount())):
            (root / "proc/self").mkdir(parents=True, exist_ok=True)
            (root / "proc/self" / name).write_bytes(text.encode("utf-8", "surrogatepass"))
        found = resources(root)
        assert found.processors >= 1 and found.memory >= LEAST_MEMORY


def test_a_quota_is_rounded_up_and_never_more_than_the_affinity(tree: Tree) -> None:
    root = tree("0::/\n", [v2_mount()])
    here = len(os.sched_getaffinity(0))
    for quota, processors in (("1000 100000", 1), ("100001 100000", min(2, here)), ("99999999 100000", here)):
        fill(root, "", cpu__max=quota)
        assert resources(root).processors == processors


def test_ulimits_count() -> None:
    code = "from signal_py.base.resources import resources; print(resources().memory)"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (900 * MIB, resource.RLIM_INFINITY))

    output = subprocess.check_output([*kit.python(), "-c", code], preexec_fn=limit, cwd="/", text=True)
    assert kit.SANITIZED or int(output) == 900 * MIB


# -- real groups --


@contextlib.contextmanager
def groups(controller: str, **files: str) -> Iterator[Path]:
    """A group of version 1 without limits, in a group with these limits."""
    top = V1_ROOT / controller / f"signal-test-{os.getpid()}"
    inner = top / "inner"
    try:
        inner.mkdir(parents=True)
        for name, text in files.items():
            (top / name.replace("__", ".")).write_text(text)
    except OSError as error:
        for folder in (inner, top):
            with contextlib.suppress(OSError):
                folder.rmdir()
        pytest.skip(f"no control group of version 1 with {controller} can be made here: {error}")
    try:
        yield inner
    finally:
        kit.until(lambda: not (inner / "cgroup.procs").read_text(), "the group is empty")
        inner.rmdir()
        top.rmdir()


def within(*folders: Path) -> tuple[str, ...]:
    """A command that enters these groups, and then executes its arguments."""
    enter = "".join(f"echo $$ > {folder}/cgroup.procs; " for folder in folders)
    return ("sh", "-ec", f'{enter}exec "$@"', "sh")


def test_an_engine_in_a_real_group() -> None:
    """With a quota of half a processor, and 256 MiB in the group above."""
    with contextlib.ExitStack() as stack:
        memory = stack.enter_context(groups("memory", memory__limit_in_bytes=str(256 * MIB)))
        cpu = stack.enter_context(groups("cpu", cpu__cfs_quota_us="50000", cpu__cfs_period_us="100000"))
        code = "from signal_py.base.resources import resources; print(resources())"
        output = subprocess.check_output([*within(memory, cpu), *kit.python(), "-c", code], cwd="/", text=True)
        assert output == f"Resources(memory={256 * MIB}, processors=1)\n"
        with kit.engine(*within(memory, cpu), nats="off") as engine:
            assert len(engine.stats()["loops"]) == 1
            [line] = [line for line in engine.events() if line["event"].startswith("limited by control groups")]
            assert line["memory"] == 256 * MIB and line["processors"] == 0.5


def test_partial_messages_stay_within_a_real_group() -> None:
    """150 MiB of them, with a limit of 96 MiB in the group above the engine's."""
    begun = frame(BINARY, bytes(MIB))[: MIB - 1000]
    with contextlib.ExitStack() as stack:
        memory = stack.enter_context(groups("memory", memory__limit_in_bytes=str(96 * MIB)))
        engine = stack.enter_context(kit.engine(*within(memory), loops=1, max_message=MIB))
        for _ in range(150):
            wire = stack.enter_context(opened(engine.port)[0])
            with contextlib.suppress(OSError):  # it is closed with 1013
                wire.send(begun)
        kit.until(lambda: engine.stats()["total"]["input_limited"] > 0, "input-total is reached")
        assert engine.alive()
