"""Runs the cases of the Autobahn TestSuite against an engine with `echo on`: `make conformance`.

The client is kosoku (PyPI), which runs the suite's own case files in Python 3. Cases 1 to 7 and 10 test the framing, 9
large messages, 12 and 13 permessage-deflate. `--messages` lowers how many messages the cases 12 and 13 send, 1000.
"""

import argparse
import asyncio
import importlib
import sys
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import kit

# How many cases each group has: a run that leaves one out fails.
CASES = {1: 16, 2: 11, 3: 7, 4: 10, 5: 20, 6: 145, 7: 37, 9: 54, 10: 1, 12: 90, 13: 126}
# Cases for which RFC 6455 allows more than one behaviour, and what the engine's is.
OTHERWISE = {
    "6.4.3": "NON-STRICT",  # text that is not UTF-8 is refused once its frame is whole
    "6.4.4": "NON-STRICT",
    "7.1.6": "INFORMATIONAL",
    "7.13.1": "INFORMATIONAL",
    "7.13.2": "INFORMATIONAL",
}
LARGEST = 32 << 20  # bytes of a message
AT_A_TIME = 4


def prepare(messages: int) -> Any:
    """Returns the package. Its cases 12 and 13 expect bytes, but kosoku 0.1.0 gives them messages that came without
    compression as str, each character a byte."""
    try:
        importlib.import_module("kosoku._caseindex").initialize_shims()
    except ImportError:
        sys.exit("autobahn: kosoku is not installed: run 'make conformance'.")
    cases = importlib.import_module("case12_x_x")
    for case in cases.Case12_X_X + cases.Case13_X_X:
        case.COUNT = messages
        case.onMessage = _with_bytes(case.onMessage)
    return importlib.import_module("kosoku")


def _with_bytes(on_message: Any) -> Any:
    def handle(case: Any, message: str | bytes, binary: bool) -> Any:
        return on_message(case, message.encode("latin-1") if isinstance(message, str) else message, binary)

    return handle


def run(kosoku: Any, port: int, group: int) -> list[Any]:
    """Returns the results of a group of cases."""

    async def client() -> list[Any]:
        try:
            return list(await kosoku.run_fuzzingclient(f"ws://127.0.0.1:{port}", [f"{group}.*"], None, AT_A_TIME))
        except kosoku.FailureError as error:
            return list(error.results)

    return asyncio.run(client())


def wrong(result: Any) -> bool:
    expected = OTHERWISE.get(result.case_id, "OK")
    return result.behavior.value != expected or result.behavior_close.value not in ("OK", "INFORMATIONAL")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=1000, metavar="N")
    kosoku = prepare(parser.parse_args().messages)
    failed, ran = 0, 0
    with kit.engine(nats="off", echo="on", deflate="on", max_message=LARGEST) as engine:
        for group, count in CASES.items():
            results = run(kosoku, engine.port, group)
            found = Counter(result.behavior.value for result in results)
            print(f"{group}.*: {', '.join(f'{n} {name}' for name, n in found.items())}", flush=True)
            for result in filter(wrong, results):
                print(f"{result.case_id}: {result.behavior.value}, {result.behavior_close.value}: {result.result}")
                failed += 1
            if len({result.case_id for result in results}) != count:
                print(f"{group}.*: {len(results)} cases ran: there should be {count}")
                failed += 1
            ran += len(results)
        compressed = engine.total("messages_deflated")
        if not compressed or not engine.total("messages_inflated"):
            print("no message was compressed")
            failed += 1
    print(f"{ran} of {sum(CASES.values())} cases ran, {failed or 'none'} failed; {compressed} messages compressed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
