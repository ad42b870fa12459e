"""What one connection, one ping and one subscription take: memory and processor time.

    python bench/capacity structures    # the engine's structures, filled without sockets: up to ten million
    python bench/capacity kernel        # the kernel's memory of a connection, beside a bare socket's
    python bench/capacity keepalive     # the processor time of a ping and its pong
    python bench/capacity nats          # nats-server's memory and time of a subscription

Each keeps its figures with `--json bench/results/TOOL.json`, and has `--help`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from capacity import keepalive, kernel, nats, structures
from results import add_json

TOOLS = {"structures": structures, "kernel": kernel, "keepalive": keepalive, "nats": nats}


def main() -> int:
    """The tool's exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tools = parser.add_subparsers(metavar="TOOL", required=True)
    for name, tool in TOOLS.items():
        lines = (tool.__doc__ or "").strip()
        one = tools.add_parser(name, description=lines, formatter_class=argparse.RawDescriptionHelpFormatter)
        tool.add_options(one)
        add_json(one)
        one.set_defaults(measure=tool.measure)
    options = parser.parse_args()
    options.measure(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
