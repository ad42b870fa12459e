"""docs/settings.md, from the table of settings: `python -m signal_py.cli.settings_doc > docs/settings.md`."""

from __future__ import annotations

from signal_py.cli.main import shown_default
from signal_py.config.settings import SETTINGS
from signal_py.config.types import Setting

HEAD = """\
# Settings

Every setting is a flag of `signal-engine serve`, an environment variable, and a key of the TOML file that
`--config FILE` or `SIGNAL_ENGINE_CONFIG` names. A key is the flag without its dashes. Flags override variables,
and variables override the file.

    # engine.toml
    listen = ["0.0.0.0:8080", "[::]:8080"]
    nats = ["nats://a.example:4222", "nats://b.example:4222"]
    max-message = 16384

* Times are in seconds and may have decimals. All of them except `ttl` have a resolution of 0.1 s.
* To give a list, repeat the flag or separate the values by commas.
* Pass secrets by variable or file: other users of the machine can see flags.
* `signal_py.Engine` takes each setting as a keyword, with underscores: `max_message=4096`. Its defaults differ for
  `listen` (`127.0.0.1:0`) and `nats` (`off`). The log settings have no effect there.
"""
RELOAD = (
    '* The column "reload" says what a [reload](reload.md) does with a change. *live*: it applies at once, to open\n'
    "  connections too. *new*: it applies to new connections. *restart*: it needs a restart of the node.\n"
)
TABLE = """
| flag | variable | default | bounds | reload | meaning |
|---|---|---|---|---|---|
"""
GROUPS = {  # by their first setting
    "listen": "Listening",
    "node": "Cluster and NATS",
    "max-message": "Messages",
    "max-connections": "Connections and rates",
    "handshake-timeout": "Timeouts",
    "backlog-bytes": "Queues and memory",
    "close-timeout": "Stopping and draining",
    "auth": "Authentication and origins",
    "admin": "Administration and log",
}


def document() -> str:
    """The text of docs/settings.md."""
    return HEAD + RELOAD + "".join(_group(setting) + _row(setting) for setting in SETTINGS.values())


def _group(setting: Setting) -> str:
    """The heading of the group that begins with this setting, "" if none does."""
    title = GROUPS.get(setting.name)
    return f"\n## {title}\n{TABLE}" if title else ""


def _row(setting: Setting) -> str:
    bounds = "" if setting.kind in (str, tuple) else f"{setting.low:.15g} to {setting.high:.15g}"
    bounds = ", ".join(f"`{choice}`" for choice in setting.choices) or bounds
    cells = (
        f"`{setting.flag}`",
        f"`{setting.variable}`",
        shown_default(setting),
        bounds,
        setting.reload,
        setting.help.replace("|", "\\|"),
    )
    return "| " + " | ".join(cells) + " |\n"


if __name__ == "__main__":
    print(document(), end="")
