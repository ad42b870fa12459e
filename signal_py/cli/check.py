"""The command `check`: finds all faults of a configuration, and starts nothing."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

from signal_py.base.errors import Fault, Faults
from signal_py.config.origin import Origin
from signal_py.config.parsing import MISUSE
from signal_py.config.settings import SETTINGS, Config
from signal_py.config.sources import load_all

DESCRIPTION = """\
Checks the settings that 'signal-engine serve' would get from the same flags, variables and file, and starts nothing.
Prints every fault with its file and line, and warnings. Files that settings name are read, names are looked up, and
addresses are bound for a moment. The exit status is 0 if an engine would start, and 2 if not."""
CALLBACK = "is callback, which only works in programs that embed the engine: use jwt or off."


def add_arguments(command: argparse.ArgumentParser, add_settings: Callable[..., None]) -> None:
    """Adds the arguments of `check`."""
    command.add_argument("--json", action="store_true", help="print the result as JSON")
    add_settings(command, SETTINGS.values())


def settings_of(flags: dict[str, object], path: str, strange: Sequence[Fault]) -> tuple[Config, Faults]:
    """Returns the settings of a command line for an engine, and their faults.

    flags    values by setting name
    path     the file that `--config` names
    strange  faults of variables
    """
    faults = Faults()
    faults.found.extend(strange)
    config = load_all(flags, os.environ, path, faults)
    if config.auth == "callback":
        named = config.named("auth")
        faults.found.append(Fault(f"{named} {CALLBACK}", "auth", named))
    return config, faults


def run(config: Config, faults: Faults, as_json: bool) -> int:
    """Prints what is wrong with settings. Returns the exit status."""
    from signal_py.auth.jwt import hush_pyjwt
    from signal_py.preflight import preflight

    hush_pyjwt()
    warnings = preflight(config, faults)
    if as_json:
        found = {"good": not faults.found, "faults": _objects(faults.found), "warnings": _objects(warnings)}
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        for kind, each in (("fault", faults.found), ("warning", warnings)):
            for fault in each:
                print(f"{kind:8} {one_line(fault.text)}")
        print(_verdict(len(faults.found), len(warnings)))
    return MISUSE if faults.found else 0


def one_line(text: str) -> str:
    """Escapes line breaks, which a value may have."""
    return text.replace("\r", "\\r").replace("\n", "\\n")


def _verdict(faults: int, warnings: int) -> str:
    counts = [(faults, "fault"), (warnings, "warning")]
    shown = ", ".join(f"{number} {word}{'s' * (number != 1)}" for number, word in counts if number)
    if faults:
        return shown
    return "the configuration is good" + (f": {shown}" if shown else "")


def _objects(faults: Sequence[Fault]) -> list[dict[str, Any]]:
    return [
        ({"setting": fault.setting} if fault.setting else {})
        | (fault.origin.fields() if isinstance(fault.origin, Origin) else {})
        | {"text": fault.text}
        for fault in faults
    ]
