"""The command `config`: prints every setting, its value, and where it came from."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from signal_py.cli.settings_doc import GROUPS
from signal_py.config.origin import Origin
from signal_py.config.settings import SETTINGS, Config
from signal_py.config.types import Setting, Value

DESCRIPTION = """\
Prints the settings that 'signal-engine serve' would get from the same flags, variables and file: each with its value,
where the value comes from, its default and its meaning. Secrets are not shown."""
FROM_MACHINE = ("loops", "backlog-total", "input-total", "inbox-messages")  # 0: derived from the machine
MAX_CELL = 40  # characters of a value on a terminal
COLUMNS = 40  # characters of the least width of the meaning


def add_arguments(command: argparse.ArgumentParser, add_settings: Callable[..., None]) -> None:
    """Adds the arguments of `config`."""
    form = command.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON, with the whole meaning of each setting")
    form.add_argument("--toml", action="store_true", help="print a file that --config accepts, without secrets")
    command.add_argument("--changed", action="store_true", help="only settings that differ from their default")
    add_settings(command, SETTINGS.values())


@dataclass(frozen=True)
class Row:
    """A setting of a configuration."""

    setting: Setting
    value: Value
    source: str  # how it was given; "" for the default
    here: int = 0  # what the engine uses in place of 0

    @property
    def changed(self) -> bool:
        """Whether the value is not the default."""
        return self.value != self.setting.default

    @property
    def origin(self) -> str:
        """Such as `default`, `--ttl`, or `engine.toml:3`."""
        return self.source.short if isinstance(self.source, Origin) else self.source or "default"

    @property
    def is_secret(self) -> bool:
        """Whether the value has a part that must not be shown."""
        return bool(self.value) and (self.setting.secret or self.shown != self.value)

    @property
    def shown(self) -> Value:
        """The value without secrets."""
        return self.setting.public(self.value)


def rows_of(config: Config) -> list[Row]:
    """Returns all settings, in the order of the table."""
    from signal_py.runtime import core_settings

    core = core_settings(config, config.node, cluster=False, hooks=False)
    rows = []
    for name, setting in SETTINGS.items():
        value = getattr(config, setting.field)
        here = core[setting.field] if name in FROM_MACHINE and not value else 0
        rows.append(Row(setting, value, config.sources.get(name, ""), int(str(here))))
    return rows


def run(config: Config, options: argparse.Namespace) -> int:
    """Prints the settings. Returns the exit status."""
    rows = [row for row in rows_of(config) if row.changed or not options.changed]
    if options.json:
        print(json.dumps([_object(row) for row in rows], indent=2, ensure_ascii=False))
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
        for line in _toml(rows) if options.toml else _table(rows, width):
            print(line)
    return 0


def _object(row: Row) -> dict[str, Any]:
    origin = row.source.fields() if isinstance(row.source, Origin) else {}
    return {
        "setting": row.setting.name,
        "value": row.shown,
        **({"here": row.here} if row.here else {}),
        "from": origin or row.origin,
        "default": row.setting.default,
        "unit": row.setting.unit,
        "meaning": row.setting.help,
    }


def _text(value: Value) -> str:
    text = ",".join(value) if isinstance(value, tuple) else f"{value:.15g}" if isinstance(value, float) else str(value)
    return text or "-"


def _table(rows: Iterable[Row], width: int) -> Iterator[str]:
    """Yields the lines of a table. `width`: of the terminal; 0: no text is cut."""
    cells: list[tuple[str, ...]] = [("setting", "value", "from", "default", "meaning")]
    for row in rows:
        value = _text(row.shown) + (f" (here {row.here})" if row.here else "")
        meaning = row.setting.help.partition("; ")[0]
        cells.append((row.setting.name, value, row.origin, _text(row.setting.default), meaning))
    if width:
        cells = [tuple(_cut(cell, MAX_CELL) for cell in line[:4]) + line[4:] for line in cells]
    widths = [max(len(line[column]) for line in cells) for column in range(4)]
    left = max(width - sum(widths) - 2 * len(widths), COLUMNS) if width else sys.maxsize
    for line in cells:
        before = "  ".join(cell.ljust(size) for cell, size in zip(line, widths, strict=False))
        yield f"{before}  {_cut(line[4], left)}".replace("\n", "\\n")


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _toml(rows: Iterable[Row]) -> Iterator[str]:
    """Yields the lines of a TOML file with these settings. Defaults and secrets are comments."""
    for row in rows:
        if title := GROUPS.get(row.setting.name):
            yield f"\n# -- {title} --\n"
        if row.is_secret:
            yield f"# {row.setting.name} is secret: set {row.setting.variable}"
        else:
            yield ("" if row.changed else "# ") + f"{row.setting.name} = {_toml_value(row.value)}"


def _toml_value(value: Value) -> str:
    """TOML's basic strings are those of JSON, but DEL must be escaped."""
    if isinstance(value, float):
        return repr(value)
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False).replace("\x7f", "\\u007f")
