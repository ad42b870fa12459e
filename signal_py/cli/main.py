"""The command line: `signal-engine serve`, `check`, `config`, `doctor`, `sub`, `ctl`, `top` and so on."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterable, Sequence

from signal_py.base.errors import ConfigError, Faults
from signal_py.base.log import say
from signal_py.base.version import VERSION
from signal_py.cli.check import one_line
from signal_py.cli.clients import TOKEN_VARIABLE, URL_VARIABLE, add_clients, add_tls
from signal_py.config.control_settings import CONTROL_SETTINGS
from signal_py.config.parsing import FAILED, MISUSE, Parser, check_variables, command_of, parse
from signal_py.config.settings import SETTINGS, Config
from signal_py.config.sources import CONFIG_VARIABLE
from signal_py.config.types import Setting

ENGINE_VARIABLES = (CONFIG_VARIABLE, *(setting.variable for setting in SETTINGS.values()))
INTERRUPTED = 130  # exit status after Ctrl-C, as a shell reports it

EPILOG = """\
Each setting is also an environment variable (--max-message: SIGNAL_ENGINE_MAX_MESSAGE) and a key of the TOML file
(max-message = 4096). Flags override variables, and variables override the file."""

DRAIN = """\
Starts a drain: the engine tells its clients to reconnect elsewhere, closes those that stay evenly over drain-time, and
exits. The command does not wait for the end. The exit status is 0 if the drain has begun, 1 if the engine refuses, and
2 if it can't be reached."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command. Returns its exit status: 0, FAILED, MISUSE or INTERRUPTED.

    arguments  those of the command line; None: sys.argv
    """
    _open_streams()
    try:
        status = _run(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
        return status
    except ConfigError as error:
        for fault in error.faults:
            say(one_line(fault.text))
        return MISUSE
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _close_stdout()
        return 0
    except OSError as error:
        say(str(error.strerror or error))
        _close_stdout()
        return FAILED


def _run(arguments: Sequence[str]) -> int:
    try:
        options = parse(_parser(), arguments)
    except SystemExit as ended:  # after --help, --version or an error, which is printed
        return int(ended.code or 0)
    known = [CONFIG_VARIABLE, URL_VARIABLE, TOKEN_VARIABLE, *(setting.variable for setting in SETTINGS.values())]
    faults = Faults()
    with faults.of():
        check_variables(os.environ, known, options.reads)
    if not options.collects:
        faults.raise_all()
    options.strange = faults.found
    return int(options.run(options))


def _open_streams() -> None:
    """Opens /dev/null for each standard stream that the caller closed. Otherwise a socket would get its descriptor."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def _close_stdout() -> None:
    """Drops what could not be written. Otherwise the flush at exit would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> Parser:
    parser = Parser(
        prog="signal-engine",
        description="A WebSocket signaling server: holds connections and relays small messages between them.",
        allow_abbrev=False,
    )
    parser.set_defaults(reads=(), collects=False)
    parser.add_argument("-V", "--version", action="version", version=f"signal-engine {VERSION}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_serve(commands)
    _add_check(commands)
    _add_config(commands)
    _add_doctor(commands)
    add_clients(commands)
    _add_drain(commands)
    _add_control(commands)
    _add_top(commands)
    _add_token(commands)
    _add_completion(commands)
    version = commands.add_parser("version", help="print the version", allow_abbrev=False)
    version.set_defaults(run=_version)
    helped = commands.add_parser("help", help="print help, for all commands or for one", allow_abbrev=False)
    helped.add_argument("command", metavar="COMMAND", nargs="*", help="such as serve, or ctl nodes")
    helped.set_defaults(run=_help)
    return parser


def _add_serve(commands: argparse._SubParsersAction[Parser]) -> None:
    serve = commands.add_parser(
        "serve",
        help="run an engine",
        epilog=EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_settings(serve, SETTINGS.values())
    serve.set_defaults(run=_serve, reads=ENGINE_VARIABLES, collects=True)


def _add_check(commands: argparse._SubParsersAction[Parser]) -> None:
    from signal_py.cli.check import DESCRIPTION, add_arguments

    short = "find all faults of an engine's settings"
    check = commands.add_parser("check", help=short, description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False)
    add_arguments(check, add_settings)
    check.set_defaults(run=_check, reads=ENGINE_VARIABLES, collects=True)


def _check(options: argparse.Namespace) -> int:
    from signal_py.cli.check import run, settings_of

    return run(*settings_of(given(options), options.config, options.strange), options.json)


def _add_config(commands: argparse._SubParsersAction[Parser]) -> None:
    from signal_py.cli.show_config import DESCRIPTION, add_arguments

    short = "print every setting, its value, and where it came from"
    config = commands.add_parser("config", help=short, description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False)
    add_arguments(config, add_settings)
    config.set_defaults(run=_config, reads=ENGINE_VARIABLES, collects=True)


def _config(options: argparse.Namespace) -> int:
    from signal_py.cli.show_config import run

    return run(_checked(options), options)


def _checked(options: argparse.Namespace) -> Config:
    """Returns the settings of an engine. Raises ConfigError."""
    from signal_py.cli.check import settings_of

    config, faults = settings_of(given(options), options.config, options.strange)
    faults.raise_all()
    return config


def add_settings(command: argparse.ArgumentParser, settings: Iterable[Setting]) -> None:
    """Adds `--config`, and a flag for each setting, which `given` finds."""
    command.add_argument("--config", metavar="FILE", default="", help="TOML file with settings")
    for setting in settings:
        repeat = "append" if setting.kind is tuple else "store"
        command.add_argument(
            setting.flag,
            dest=f"set.{setting.name}",
            action=repeat,
            default=argparse.SUPPRESS,
            metavar=_metavar(setting),
            help=describe(setting).replace("%", "%%"),
        )


def given(options: argparse.Namespace) -> dict[str, object]:
    """Returns the values of the flags that were given, by the name of their setting."""
    return {name[4:]: value for name, value in vars(options).items() if name.startswith("set.")}


def _add_doctor(commands: argparse._SubParsersAction[Parser]) -> None:
    from signal_py.cli.doctor import DESCRIPTION, add_arguments

    short = "print how many connections this machine allows, and how to raise the first limit"
    doctor = commands.add_parser("doctor", help=short, description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False)
    add_arguments(doctor, add_settings)
    doctor.set_defaults(run=_doctor, reads=ENGINE_VARIABLES, collects=True)


def _doctor(options: argparse.Namespace) -> int:
    from signal_py.cli.doctor import run

    return run(_checked(options), options)


def _add_control(commands: argparse._SubParsersAction[Parser]) -> None:
    from signal_py.cli.ctl import add_arguments

    control = commands.add_parser(
        "ctl", help="inspect and control the nodes of a cluster, through NATS", allow_abbrev=False
    )
    add_arguments(control, add_settings)
    control.set_defaults(run=_control, reads=(CONFIG_VARIABLE, *(SETTINGS[name].variable for name in CONTROL_SETTINGS)))


def _control(options: argparse.Namespace) -> int:
    from signal_py.cli.ctl import run, variables
    from signal_py.config.sources import load

    return run(options, load(given(options), variables(os.environ), options.config))


def _add_top(commands: argparse._SubParsersAction[Parser]) -> None:
    from signal_py.cli.top import DESCRIPTION, add_arguments
    from signal_py.config.control_settings import control_settings

    top = commands.add_parser("top", help="watch a node or a cluster", description=DESCRIPTION, allow_abbrev=False)
    add_arguments(top)
    add_settings(top, control_settings())
    top.set_defaults(run=_top, reads=(CONFIG_VARIABLE, *(SETTINGS[name].variable for name in CONTROL_SETTINGS)))


def _top(options: argparse.Namespace) -> int:
    from signal_py.cli.ctl import variables
    from signal_py.cli.top import run
    from signal_py.config.sources import load

    return run(options, load(given(options), variables(os.environ), options.config))


def _add_token(commands: argparse._SubParsersAction[Parser]) -> None:
    from signal_py.cli.token import add_arguments

    token = commands.add_parser(
        "token", help="make a token for trials, or show the contents of one", allow_abbrev=False
    )
    add_arguments(token)
    token.set_defaults(run=_mint, reads=(SETTINGS["auth-key"].variable,))


def _add_completion(commands: argparse._SubParsersAction[Parser]) -> None:
    from signal_py.cli.completion import DESCRIPTION, SHELLS

    short = "print a completion script for a shell"
    completion = commands.add_parser("completion", help=short, description=DESCRIPTION, allow_abbrev=False)
    completion.add_argument("shell", choices=SHELLS, help="the shell")
    completion.set_defaults(run=_complete)


def _complete(options: argparse.Namespace) -> int:
    from signal_py.cli.completion import script

    print(script(_parser(), options.shell))
    return 0


def _metavar(setting: Setting) -> str:
    return setting.metavar or "|".join(setting.choices) or ("SECONDS" if setting.kind is float else "N")


def describe(setting: Setting) -> str:
    """Returns what a setting means, its bounds and its default with the unit, on one line."""
    more = [] if setting.choices or setting.kind in (str, tuple) else [f"{setting.low:.15g} to {setting.high:.15g}"]
    if setting.kind is tuple:
        more.append("may be repeated, or a list separated by commas")
    if setting.default not in ("", ()):
        more.append(f"default {shown_default(setting)}")
    return f"{setting.help} ({'; '.join(more)})" if more else setting.help


def shown_default(setting: Setting) -> str:
    """Returns the default of a setting with its unit; "" if it is empty."""
    value = setting.default
    text = ",".join(value) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else str(value)
    return f"{text} {setting.unit}".rstrip()


def _add_drain(commands: argparse._SubParsersAction[Parser]) -> None:
    variable = SETTINGS["admin"].variable
    short = "make an engine send its clients away and exit"
    drain = commands.add_parser("drain", help=short, description=DRAIN, allow_abbrev=False)
    drain.add_argument(
        "--admin",
        metavar="URL",
        help=f"the engine's admin server, HOST:PORT, http://HOST:PORT/ or https://HOST:PORT/ (default: the variable "
        f"{variable})",
    )
    add_tls(drain, "https://")
    drain.set_defaults(run=_drain, reads=(variable,))


def _drain(options: argparse.Namespace) -> int:
    from signal_py.cli.client_tls import ClientTls
    from signal_py.cli.drain import drain

    variable = SETTINGS["admin"].variable
    url = os.environ.get(variable, "")
    given = (url, variable) if url and options.admin is None else (options.admin or "", "--admin")
    return drain(*given, ClientTls.of(options))


def _serve(options: argparse.Namespace) -> int:
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, lambda *_: None)  # a reload that comes too early must not end the process
    from signal_py.cli.check import settings_of
    from signal_py.cli.serve import serve
    from signal_py.preflight import preflight

    def load() -> Config:
        """Reads the file again; flags and variables are those of the start."""
        config, faults = settings_of(given(options), options.config, options.strange)
        if faults.found:
            preflight(config, faults)
            faults.raise_all()
        return config

    return serve(load(), load)


def _mint(options: argparse.Namespace) -> int:
    from signal_py.cli.token import run

    return run(options, dict(os.environ))


def _help(options: argparse.Namespace) -> int:
    command_of(_parser(), options.command).print_help()
    return 0


def _version(options: argparse.Namespace) -> int:
    print(f"signal-engine {VERSION}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
