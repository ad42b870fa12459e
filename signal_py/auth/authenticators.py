"""Authenticates connections. The core asks in batches; an authenticator answers each query once, in batches.

JwtAuthenticator works on the control thread. CallbackAuthenticator calls the program, on its own asyncio loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol
from urllib.parse import unquote, unquote_plus

from signal_py.auth.grants import REFUSALS, Grant, GrantError, Refusal, Request, Verdict, verdict_of
from signal_py.auth.headers import headers_of
from signal_py.auth.jwt import TokenError, Verifier, described
from signal_py.auth.keys import LOOK_PAUSE, RETRY_MAX, KeysMissingError, KeyUnknownError, Trouble
from signal_py.base.aio import cancel_and_wait, in_thread, with_timeout
from signal_py.base.log import event
from signal_py.base.throttled_log import ThrottledLog

SLICE = 128  # tokens that are checked before the thread handles other events
AT_ONCE = 256  # calls of an authorizer at a time
QUIET = 1.0  # seconds between two refusals that are logged at level info
FAILED = 503  # status of a client for which there is no decision

AuthQuery = tuple[int, bool, bytes]
"""From the core: connection, whether it is a renewal, lines (signal_core/client/auth.pxd)."""
Authorizer = Callable[[Request], Awaitable[Grant | Refusal]]
Answer = Callable[[list[Verdict]], None]

logger = logging.getLogger(__name__)


class Authenticator(Protocol):
    """Answers the core's queries. All methods are called on the control thread."""

    def start(self) -> None:
        """Called once, when the thread's asyncio loop runs."""

    def take(self, queries: Sequence[AuthQuery]) -> None:
        """Takes queries, each of which gets one answer."""

    def reload(self, verifier: Verifier | None, timeout: float) -> None:
        """Takes the verifier, if it has one, and the timeout of other settings, for queries that come from now on."""

    async def close(self) -> None:
        """Called once; no queries come after it."""


def request_of(query: AuthQuery) -> Request:
    """Returns the request that an authorizer receives."""
    _, renewal, lines = query
    remote, origin, path, url_query, user, token, *head = lines.decode("latin-1").split("\n", 6)
    pairs = (pair for pair in url_query.split("&") if pair != "token" and not pair.startswith("token="))
    headers = headers_of(head[0] if head else "")
    return Request(token, remote, origin, path, "&".join(pairs), renewal, user or None, headers)


def secrets_of(query: AuthQuery) -> list[str]:
    """Returns the parts of a query that must not be logged."""
    request = request_of(query)
    authorization = request.headers.get("authorization", "")
    values = [pair.partition("=")[2] for pair in request.query.split("&")]
    values += [request.headers.get("cookie", ""), *request.cookies.values()]
    values += [authorization, authorization.partition(" ")[2].strip()]
    protocols = request.headers.get("sec-websocket-protocol", "").split(",")
    values += [protocol.strip().removeprefix("token.") for protocol in protocols if "token." in protocol]
    return [request.token, *values, *map(unquote, values), *map(unquote_plus, values)]


class Refusals:
    """Makes refusals and logs them.

    One per second is logged at level info, with the number of those before it that were not (`untold`). So strangers
    can't fill the log. The others are logged at level debug.
    """

    def __init__(self) -> None:
        self._last = -QUIET
        self._untold = 0

    def refuse(self, query: AuthQuery, status: int, reason: str, claim: str = "") -> Verdict:
        """Returns the verdict that refuses a client with an HTTP status. `claim`: the part of the token that is wrong.

        Only refusals with a status of REFUSALS are logged at level info.
        """
        now = time.monotonic()
        due = status in REFUSALS and now - self._last >= QUIET
        if due or logger.isEnabledFor(logging.DEBUG):
            fields: dict[str, object] = {"claim": claim} if claim else {}
            remote, _, rest = query[2].partition(b"\n")
            if claim:  # the token is the last line
                fields |= described(rest.rpartition(b"\n")[2])
            if due:
                fields |= {"untold": self._untold} if self._untold else {}
                self._last, self._untold = now, 0
            level, text = "info" if due else "debug", "refused a connection"
            event(logger, level, text, remote=remote.decode("latin-1"), status=status, reason=reason, **fields)
        else:
            self._untold += status in REFUSALS
        return query[0], status, b"", b"", 0


class JwtAuthenticator:
    """Checks signatures and claims, SLICE at a time, so that NATS does not wait."""

    def __init__(self, verifier: Verifier, answer: Answer, timeout: float) -> None:
        """`timeout`: seconds that a token waits while keys are fetched."""
        self._verifier = verifier
        self._answer = answer
        self._timeout = timeout
        self._queries: deque[tuple[AuthQuery, bool]] = deque()  # each with whether it has waited for keys
        self._waiting: list[AuthQuery] = []  # for the next lookup of keys
        self._asked: list[AuthQuery] = []  # for the one that is under way: they came before it began
        self._planned = False
        self._refreshing: asyncio.Future[None] | None = None
        self._wanted = asyncio.Event()  # a token waits for keys
        self._failures = ThrottledLog(logger)
        self._refusals = Refusals()
        self._logged: set[str] = set()  # reasons of trouble since keys were last available

    def start(self) -> None:
        """Begins to refresh the keys, if they may change."""
        if self._verifier.keys.changing:
            self._refreshing = asyncio.ensure_future(self._refresh())

    def take(self, queries: Sequence[AuthQuery]) -> None:
        """Takes queries, each of which gets one answer: at once, or when its keys have been looked up."""
        self._put((query, False) for query in queries)

    def reload(self, verifier: Verifier | None, timeout: float) -> None:
        """Takes another verifier, whose keys are loaded, and the time that a token waits while keys are fetched."""
        assert verifier is not None
        if self._refreshing is not None:
            self._refreshing.cancel()
        self._verifier, self._timeout, self._refreshing = verifier, timeout, None
        self.start()
        if self._refreshing is None:
            self._authenticate_waiting()

    async def close(self) -> None:
        """Ends the refreshing of keys."""
        if self._refreshing is not None:
            await cancel_and_wait(self._refreshing)

    def _put(self, queries: Iterable[tuple[AuthQuery, bool]]) -> None:
        self._queries.extend(queries)
        if not self._planned:
            self._planned = True
            self._authenticate_slice()

    def _authenticate_slice(self) -> None:
        """Authenticates a slice; the rest follows after other events of the loop."""
        verdicts = []
        for _ in range(min(SLICE, len(self._queries))):
            query, last = self._queries.popleft()
            verdict = self.authenticate(query, last)
            if verdict is None:
                self._waiting.append(query)
                self._wanted.set()
            else:
                verdicts.append(verdict)
        self._planned = bool(self._queries)
        if self._planned:
            asyncio.get_running_loop().call_soon(self._authenticate_slice)
        if verdicts:
            self._answer(verdicts)

    def authenticate(self, query: AuthQuery, last: bool = False) -> Verdict | None:
        """Returns the verdict, or None if the key may become known. With `last`, such a token is refused."""
        refuse = self._refusals.refuse
        token = query[2].rpartition(b"\n")[2]
        try:
            return verdict_of(query[0], self._verifier.grant(token), time.time())
        except KeyUnknownError as unknown:
            return refuse(query, 401, str(unknown), unknown.claim) if last else None
        except KeysMissingError as missing:
            if not last:
                return None
            self._failures.add("tokens can't be checked", str(missing))
            return refuse(query, FAILED, str(missing))
        except (TokenError, GrantError) as wrong:
            return refuse(query, 401, str(wrong), wrong.claim)
        except Exception as error:
            self._failures.add("tokens can't be checked", "", error, lambda: secrets_of(query))
            return refuse(query, FAILED, type(error).__name__)

    async def _refresh(self) -> None:
        """Refreshes the keys: periodically, after a failure, and when a token names an unknown one.

        One lookup at a time, however slow it is.
        """
        keys = self._verifier.keys
        looking: asyncio.Future[None] | None = None
        retry = LOOK_PAUSE
        while True:
            if looking is None:
                self._asked, self._waiting = self._asked + self._waiting, []
                looking = in_thread(keys.look)
            done, _ = await asyncio.wait({looking}, timeout=self._timeout)
            if not done:
                keys.trouble = Trouble("timeout", f"no answer in {self._timeout:g} s")
            elif error := looking.exception():
                keys.trouble = Trouble("system", str(error))
            looking = None if done else looking
            self._log_trouble(keys.trouble)
            self._wanted.clear()
            self._authenticate_waiting(late=bool(done))
            with contextlib.suppress(asyncio.TimeoutError):
                await with_timeout(self._wanted.wait(), min(retry, keys.refresh) if keys.trouble else keys.refresh)
            retry = min(2 * retry, RETRY_MAX) if keys.trouble else LOOK_PAUSE
            await asyncio.sleep(keys.pause())

    def _log_trouble(self, trouble: Trouble | None) -> None:
        """Logs each kind of trouble once, and its end."""
        keys = self._verifier.keys
        if trouble is None:
            if self._logged:
                event(logger, "info", "keys for tokens are available again", source=keys.source, keys=keys.count)
            self._logged.clear()
        elif trouble.reason not in self._logged:
            self._logged.add(trouble.reason)
            text = "keys for tokens can't be loaded"
            event(logger, "warning", text, source=keys.source, reason=trouble.text, keys=keys.count)

    def _authenticate_waiting(self, late: bool = False) -> None:
        """Authenticates the tokens that waited for keys, with the keys that are known now. With `late`, those that came
        after a lookup had begun may wait for another one, since it may have read older keys."""
        asked, waiting = self._asked, self._waiting
        self._asked, self._waiting = [], []
        self._put([(query, True) for query in asked] + [(query, not late) for query in waiting])


class CallbackAuthenticator:
    """Calls an async function of the embedding program, at most AT_ONCE at a time, each with a timeout."""

    def __init__(self, authorize: Authorizer, answer: Answer, timeout: float, loop: asyncio.AbstractEventLoop) -> None:
        self._authorize = authorize
        self._answer = answer
        self._timeout = timeout
        self._loop = loop  # the program's
        self._queue: deque[tuple[float, AuthQuery]] = deque()  # each with its deadline
        self._running: dict[int, asyncio.Future[Grant | Refusal]] = {}  # by connection
        self._verdicts: list[Verdict] = []
        self._failures = ThrottledLog(logger)
        self._refusals = Refusals()

    def start(self) -> None:
        """Does nothing: the calls run on the program's loop."""

    def take(self, queries: Sequence[AuthQuery]) -> None:
        """Hands queries to the program's loop. Each gets one answer, within the timeout."""
        try:
            self._loop.call_soon_threadsafe(self._accept, list(queries))
        except RuntimeError:  # the program's loop is closed
            self._answer([self._refusals.refuse(query, FAILED, "the program has stopped") for query in queries])

    def reload(self, verifier: Verifier | None, timeout: float) -> None:
        """Takes the timeout of calls that begin from now on."""
        self._timeout = timeout

    async def close(self) -> None:
        """Does nothing: calls that still run end by their timeout."""

    def _accept(self, queries: list[AuthQuery]) -> None:
        end = self._loop.time() + self._timeout
        self._queue.extend((end, query) for query in queries)
        self._start()

    def _start(self) -> None:
        """Starts as many calls as may run. Queries past their deadline are refused."""
        while self._queue and len(self._running) < AT_ONCE:
            end, query = self._queue.popleft()
            if end <= self._loop.time():
                self._fail(query, "too many calls were running to call it in time")
                continue
            try:
                answer = self._authorize(request_of(query))
                if not inspect.isawaitable(answer):
                    self._fail(
                        query, f"it returned {type(answer).__name__} instead of a coroutine: make it an `async def`"
                    )
                    continue
                task = asyncio.ensure_future(answer)
            except Exception as error:
                self._fail(query, "", error)
                continue
            self._running[query[0]] = task
            timer = self._loop.call_at(end, self._late, query, task)
            task.add_done_callback(functools.partial(self._done, query, timer))

    def _late(self, query: AuthQuery, task: asyncio.Future[Grant | Refusal]) -> None:
        """Refuses a query at its deadline, and does not wait for the cancelled call."""
        if self._running.get(query[0]) is task:
            del self._running[query[0]]
            self._fail(query, f"no answer in {self._timeout:g} s")
            task.cancel()
            self._start()

    def _done(self, query: AuthQuery, timer: asyncio.TimerHandle, task: asyncio.Future[Grant | Refusal]) -> None:
        timer.cancel()
        error = None if task.cancelled() else task.exception()
        if self._running.get(query[0]) is not task:
            return
        del self._running[query[0]]
        if task.cancelled() or error is not None:
            self._fail(query, "" if error else "it was cancelled", error)
        else:
            self._decide(query, task.result())
        self._start()

    def _decide(self, query: AuthQuery, answer: object) -> None:
        if isinstance(answer, Refusal) and answer.status in REFUSALS:
            self._add(self._refusals.refuse(query, answer.status, answer.reason))
        elif isinstance(answer, Grant):
            try:
                self._add(verdict_of(query[0], answer, time.time()))
            except GrantError as wrong:
                self._fail(query, f"its Grant can't be used: {wrong}")
            except Exception as error:  # a Grant may hold anything, and each query needs an answer
                self._fail(query, "", error)
        elif isinstance(answer, Refusal):
            self._fail(query, f"the status of its Refusal must be {' or '.join(map(str, REFUSALS))}")
        else:
            self._fail(query, f"it returned a {type(answer).__name__}: return a Grant or a Refusal")

    def _fail(self, query: AuthQuery, reason: str, error: BaseException | None = None) -> None:
        self._failures.add("the authorizer failed", reason, error, lambda: secrets_of(query))
        self._add(self._refusals.refuse(query, FAILED, reason or type(error).__name__))

    def _add(self, verdict: Verdict) -> None:
        """Collects verdicts, to answer them in one batch."""
        if not self._verdicts:
            self._loop.call_soon(self._flush)
        self._verdicts.append(verdict)

    def _flush(self) -> None:
        verdicts, self._verdicts = self._verdicts, []
        self._answer(verdicts)
