"""Operators reload the settings of nodes over NATS."""

from __future__ import annotations

from pathlib import Path

import kit

from .conftest import await_cluster
from .test_control import await_control, ctl


def test_nodes_are_reloaded(tmp_path: Path) -> None:
    """One by name, or all. A node whose settings have a fault keeps the old ones, says why, and the others go on."""
    files = [tmp_path / f"{name}.toml" for name in ("a", "b")]
    for file in files:
        file.write_text("max-rooms = 5\n")
    with (
        kit.nats() as server,
        kit.engine(nats=server.url, node="a", loops=1, config=str(files[0])) as one,
        kit.engine(nats=server.url, node="b", loops=1, config=str(files[1])) as two,
    ):
        await_cluster([one, two])
        await_control(server, one, two)
        for file in files:
            file.write_text("max-rooms = 6\nloops = 2\n")
        changed = [{"setting": "max-rooms", "old": 5, "new": 6}]
        status, done, stderr = ctl(server, "reload", "b")
        assert (status, stderr) == (0, "")
        assert [(one["node"], one["changed"], one["restart"]) for one in done] == [("b", changed, [])]
        files[1].write_text("max-rooms = many\n")
        status, done, stderr = ctl(server, "reload", "--all")
        assert status == 1 and [(one["node"], one["changed"]) for one in done] == [("a", changed)]
        assert stderr.startswith("signal-engine: b: bad-settings: ") and f"{files[1]}" in stderr, stderr
        shown = kit.run("ctl", "reload", "a", SIGNAL_ENGINE_NATS=server.url)
        assert (shown.returncode, shown.stdout) == (0, "a  changed: nothing\n")


def test_a_node_or_all_must_be_named() -> None:
    for words in ((), ("a", "--all")):
        done = kit.run("ctl", "reload", *words, SIGNAL_ENGINE_NATS="nats://127.0.0.1:1")
        assert done.returncode == 2 and "reload takes the name of a node, or --all for every node" in done.stderr
