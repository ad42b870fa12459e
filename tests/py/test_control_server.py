"""The delay before the control plane dials again."""

import asyncio
from typing import Any

import pytest

from signal_py.config.nats_url import Server
from signal_py.control import server
from signal_py.control.server import ControlServer
from signal_py.nats.servers import FIRST_DELAY, LAST_DELAY


class Enough(Exception):
    """Raised after enough waits."""


@pytest.mark.parametrize("lasts, begins_anew", [(0.0, False), (LAST_DELAY + 1, True), (None, False)])
def test_the_delay_doubles_up_to_its_bound(
    monkeypatch: pytest.MonkeyPatch, lasts: float | None, begins_anew: bool
) -> None:
    """Delays are random up to the bound, which begins anew only after a connection that lasted.

    Dialling goes on after any error."""
    bounds: list[float] = []
    now = 0.0

    def uniform(low: float, high: float) -> float:
        assert low == 0.0
        bounds.append(high)
        if len(bounds) == 10:
            raise Enough
        return 0.0

    async def serve(server: Server) -> bool:
        nonlocal now
        if lasts is None:
            raise LookupError("unexpected")
        now += lasts
        return True

    nothing: Any = None
    made = ControlServer("node", "1", "signal", {}, dict, nothing, nothing)
    monkeypatch.setattr(made, "_serve", serve)
    monkeypatch.setattr(server.random, "uniform", uniform)
    monkeypatch.setattr(server.time, "monotonic", lambda: now)

    async def main() -> None:
        made._server = Server("127.0.0.1", 1)
        with pytest.raises(Enough):
            await made._run()

    asyncio.run(main())
    grown = [min(FIRST_DELAY * 2**i, LAST_DELAY) for i in range(10)]
    assert bounds == ([FIRST_DELAY] * 10 if begins_anew else grown)
