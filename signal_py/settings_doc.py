"""docs/settings.md, from the table of settings: `python -m signal_py.settings_doc > docs/settings.md`."""

from __future__ import annotations

from signal_py.cli import shown_default
from signal_py.setting import Setting
from signal_py.settings import SETTINGS

HEAD = """\
# Settings

Every setting is a flag of `signal-engine serve`, a variable, and a key of the TOML file that `--config FILE`
or `SIGNAL_ENGINE_CONFIG` names (the flag without its dashes). Flags win over variables, those over the file.
`signal_py.Engine` takes each as a keyword, with underscores: `max_message=4096`. There `listen` is
`127.0.0.1:0` and `nats` is `off` unless you say otherwise, and the log settings have no effect.

    # engine.toml
    listen = ["0.0.0.0:8080", "[::]:8080"]
    nats = ["nats://a.example:4222", "nats://b.example:4222"]
    max-message = 16384

Times are in seconds and may have decimals; all but `ttl` are kept to a tenth of a second. A list may be a
flag several times, or one text with commas. Give secrets by variable or file: other users can see flags.

| flag | variable | default | bounds | meaning |
|---|---|---|---|---|
"""


def document() -> str:
    """The text of docs/settings.md."""
    return HEAD + "".join(_row(setting) for setting in SETTINGS.values())


def _row(setting: Setting) -> str:
    bounds = "" if setting.kind in (str, tuple) else f"{setting.low:.15g} to {setting.high:.15g}"
    bounds = ", ".join(f"`{choice}`" for choice in setting.choices) or bounds
    cells = (
        f"`{setting.flag}`",
        f"`{setting.variable}`",
        shown_default(setting),
        bounds,
        setting.help.replace("|", "\\|"),
    )
    return "| " + " | ".join(cells) + " |\n"


if __name__ == "__main__":
    print(document(), end="")
