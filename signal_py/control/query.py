"""A request to nodes that waits for answers on a NATS inbox."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from signal_py.base.aio import with_timeout

if TYPE_CHECKING:
    from nats.aio.msg import Msg


class Query:
    """One request, and the answers that have arrived. Several may wait at a time. For one asyncio loop."""

    def __init__(self, subject: str, inbox: str) -> None:
        self._subjects = (subject, inbox)
        self.answers: deque[Msg] = deque()
        self.problem = ""  # the error that NATS reported about it
        self.changed = asyncio.Event()

    async def take(self, message: Msg) -> None:
        """Takes an answer. A callback of nats-py."""
        self.answers.append(message)
        self.changed.set()

    def report(self, problem: str) -> None:
        """Takes an error that NATS reports, unless it names another query's subject (a permission violation names one).

        Subjects are compared without regard to case, since NATS changes it.
        """
        if '"' not in problem or any(f'"{subject}"'.lower() in problem.lower() for subject in self._subjects):
            self.problem = problem
            self.changed.set()

    def wake(self) -> None:
        """Ends a wait, since the connection has ended."""
        self.changed.set()

    async def wait(self, seconds: float) -> bool:
        """Waits for an answer, an error or the end of the connection. Returns False if none came within `seconds`."""
        if seconds <= 0:
            return False
        self.changed.clear()
        try:
            await with_timeout(self.changed.wait(), seconds)
        except asyncio.TimeoutError:
            return False
        return True
