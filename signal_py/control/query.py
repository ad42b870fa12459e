"""A request to nodes that waits for answers on an inbox of NATS."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from signal_py.base.aio import with_timeout

if TYPE_CHECKING:
    from nats.aio.msg import Msg


class Query:
    """One request and the answers to it. Several may be under way at a time. For one asyncio loop."""

    def __init__(self, where: str, inbox: str) -> None:
        self._subjects = (where, inbox)
        self.heard: deque[Msg] = deque()
        self.problem = ""  # the error that NATS reported about it
        self.stir = asyncio.Event()

    async def hear(self, message: Msg) -> None:
        self.heard.append(message)
        self.stir.set()

    def objects(self, problem: str) -> None:
        """Takes an error that NATS reports, unless it names another query's subject (a permission violation names one).

        Subjects are compared without regard to case, since NATS changes it.
        """
        if '"' not in problem or any(f'"{subject}"'.lower() in problem.lower() for subject in self._subjects):
            self.problem = problem
            self.stir.set()

    async def stirred(self, seconds: float) -> bool:
        """Returns whether an answer, an error or the end of the connection came within so many seconds."""
        if seconds <= 0:
            return False
        self.stir.clear()
        try:
            await with_timeout(self.stir.wait(), seconds)
        except asyncio.TimeoutError:
            return False
        return True
