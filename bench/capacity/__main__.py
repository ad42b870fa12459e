"""What one connection, one ping and one subscription take: memory and processor time.

    python bench/capacity structures    # the engine's structures, filled without sockets: up to ten million
    python bench/capacity kernel        # the kernel's memory of a connection, beside a bare socket's
    python bench/capacity keepalive     # the processor time of a ping and its pong
    python bench/capacity nats          # nats-server's memory and time of a subscription

Each keeps its figures with `--json bench/results/TOOL.json`, and has `--help`.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from capacity import keepalive, kernel, nats, structures

TOOLS = {"structures": structures, "kernel": kernel, "keepalive": keepalive, "nats": nats}

if __name__ == "__main__":
    tool = TOOLS.get(sys.argv[1] if len(sys.argv) > 1 else "")
    sys.exit(tool.main(sys.argv[2:]) if tool else __doc__)
