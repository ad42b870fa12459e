"""The version of the installed package; pyproject.toml is its only source."""

from importlib.metadata import PackageNotFoundError, version


def _installed() -> str:
    try:
        return version("signal-engine-ws")
    except PackageNotFoundError:
        return "0+unknown"


VERSION = _installed()
