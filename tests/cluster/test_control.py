"""Operators' questions and orders, through a real nats-server, to real nodes."""

import json

import kit


def ctl(server: kit.Nats, *words: str) -> tuple[int, list[dict[str, object]], str]:
    """Exit status, what was printed, and what was complained of."""
    done = kit.run("ctl", *words, "--json", SIGNAL_ENGINE_NATS=server.url)
    assert "Traceback" not in done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_nodes_and_stats(server: kit.Nats, nodes: list[kit.Engine]) -> None:
    status, found, said = ctl(server, "nodes")
    assert (status, said) == (0, "")
    assert [node["node"] for node in found] == sorted(node.node for node in nodes)
    assert sorted(str(node["listen"]) for node in found) == sorted(str([node.url]) for node in nodes)
    status, found, _ = ctl(server, "stats", "--node", nodes[0].node)
    assert status == 0 and [stats["node"] for stats in found] == [nodes[0].node]
