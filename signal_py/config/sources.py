"""Reads settings: flags override variables, and variables override the file."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from signal_py.base.errors import ConfigError
from signal_py.base.files import read_text
from signal_py.config.load import make_config
from signal_py.config.parsing import nearest
from signal_py.config.settings import SETTINGS, Config

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONFIG_VARIABLE = "SIGNAL_ENGINE_CONFIG"


def load(flags: Mapping[str, object], environ: Mapping[str, str], path: str = "") -> Config:
    """Returns the settings of a command line. Raises ConfigError.

    flags    values by setting name
    environ  the environment, whose empty variables are ignored
    path     the file that `--config` names; "": the one that CONFIG_VARIABLE names, if any
    """
    given: dict[str, object] = {}
    sources: dict[str, str] = {}
    named = "--config" if path else CONFIG_VARIABLE
    path = path or environ.get(CONFIG_VARIABLE, "")
    for name, value in (read_file(path, named) if path else {}).items():
        given[name], sources[name] = value, f"'{name}' in {path}"
    for name, setting in SETTINGS.items():
        if environ.get(setting.variable):
            given[name], sources[name] = environ[setting.variable], setting.variable
        if name in flags:
            given[name], sources[name] = flags[name], setting.flag
    return make_config(given, sources)


def read_file(path: str, named: str) -> dict[str, object]:
    """Reads a TOML file. Raises ConfigError, also for an unknown key. `named`: how the file was given."""
    try:
        found: dict[str, object] = tomllib.loads(read_text(path))
    except OSError as error:
        raise ConfigError(f"{named} {path} can't be read: {error.strerror}. Name a readable TOML file.") from None
    except ValueError as error:
        raise ConfigError(f"{named} {path} is not TOML: {error}. Fix that line.") from None
    except RecursionError:
        raise ConfigError(
            f"{named} {path} nests lists too deeply: settings are strings, numbers and lists of strings."
        ) from None
    for key in found:
        if key not in SETTINGS:
            near = nearest(key.replace("_", "-"), SETTINGS)
            fix = f"write '{near}'" if near else "leave it out; 'signal-engine serve --help' lists all settings"
            raise ConfigError(f"'{key}' in {path} is not a setting: {fix}.")
    return found
