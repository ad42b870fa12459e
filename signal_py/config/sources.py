"""Reads settings: flags override variables, and variables override the file."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from signal_py.base.errors import ConfigError, Fault, Faults
from signal_py.base.files import read_text
from signal_py.config.load import check_all
from signal_py.config.origin import Origin
from signal_py.config.parsing import nearest
from signal_py.config.settings import SETTINGS, Config
from signal_py.config.toml_lines import lines_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONFIG_VARIABLE = "SIGNAL_ENGINE_CONFIG"
AT_LINE = re.compile(r"at line (\d+)")  # in an error of tomllib


@dataclass(frozen=True)
class Given:
    """Settings as they were given, unchecked.

    values   by setting name
    sources  how each was given
    """

    values: dict[str, object] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, value: object, origin: Origin) -> None:
        """Adds a setting. The last one counts."""
        self.values[name], self.sources[name] = value, origin


def load(flags: Mapping[str, object], environ: Mapping[str, str], path: str = "") -> Config:
    """Returns the settings of a command line. Raises ConfigError with every fault of flags, variables and the file.

    flags    values by setting name
    environ  the environment, whose empty variables are ignored
    path     the file that `--config` names; "": the one that CONFIG_VARIABLE names, if any
    """
    faults = Faults()
    config = load_all(flags, environ, path, faults)
    faults.raise_all()
    return config


def load_all(flags: Mapping[str, object], environ: Mapping[str, str], path: str, faults: Faults) -> Config:
    """As load, but adds to `faults` in place of raising. A setting with a fault then has its default."""
    given = Given()
    named = "--config" if path else CONFIG_VARIABLE
    path = path or environ.get(CONFIG_VARIABLE, "")
    if path:
        with faults.of():
            _add_file(given, path, named)
    for name, setting in SETTINGS.items():
        if environ.get(setting.variable):
            given.add(name, environ[setting.variable], Origin.of_variable(setting.variable))
        if name in flags:
            given.add(name, flags[name], Origin.of_flag(setting.flag))
    return check_all(given.values, given.sources, faults)


def read_file(path: str, named: str) -> dict[str, object]:
    """Returns the settings of a TOML file, unchecked. Raises ConfigError. `named`: how the file was given."""
    given = Given()
    _add_file(given, path, named)
    return given.values


def _add_file(given: Given, path: str, named: str) -> None:
    """Adds the settings of a TOML file. Then raises ConfigError if it has keys that are no settings."""
    text, found = _parse_file(path, named)
    lines, unknown = lines_of(text), []
    for key, value in found.items():
        origin = Origin.of_key(key, path, lines.get(key, 0))
        if key in SETTINGS:
            given.add(key, value, origin)
        else:
            near = nearest(key.lower().replace("_", "-"), SETTINGS)
            fix = f"write '{near}'" if near else "leave it out; 'signal-engine serve --help' lists all settings"
            unknown.append(Fault(f"{origin} is not a setting: {fix}.", "", origin))
    if unknown:
        raise ConfigError(*unknown)


def _parse_file(path: str, named: str) -> tuple[str, dict[str, object]]:
    """Returns the text of a TOML file, and its values. Raises ConfigError."""
    text, line = "", 0
    try:
        text = read_text(path)
        return text, tomllib.loads(text)
    except OSError as error:
        wrong = f"{named} {path} can't be read: {error.strerror}. Name a readable TOML file."
    except ValueError as error:
        line = int(at[1]) if (at := AT_LINE.search(str(error))) else 0
        fix = "Fix that line." if line else "Write it as UTF-8 text, key = value, with every bracket closed."
        if text.startswith("\ufeff"):
            fix = "Save it without the byte order mark that it begins with."
        wrong = f"{named} {path} is not TOML: {error}. {fix}"
    except RecursionError:
        wrong = f"{named} {path} nests lists too deeply: settings are strings, numbers and lists of strings."
    raise ConfigError(Fault(wrong, "", Origin.of_line(named, path, line)))
