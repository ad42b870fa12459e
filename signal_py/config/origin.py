"""Where a setting was given."""

from __future__ import annotations

from typing import Any


class Origin(str):
    """How a setting was given, as errors name it: `--listen`, `SIGNAL_ENGINE_LISTEN`, `'listen' in engine.toml:3`.

    kind  flag, variable or file
    name  the flag, the variable, or the key of the file
    file  its path; "" for a flag or a variable
    line  of the key, from 1; 0 if unknown
    """

    kind: str
    name: str
    file: str
    line: int

    @classmethod
    def of_flag(cls, flag: str) -> Origin:
        """A flag of the command line."""
        return cls._make(flag, "flag", flag)

    @classmethod
    def of_variable(cls, variable: str) -> Origin:
        """A variable of the environment."""
        return cls._make(variable, "variable", variable)

    @classmethod
    def of_key(cls, key: str, file: str, line: int) -> Origin:
        """A key of a file."""
        where = f"{file}:{line}" if line else file
        return cls._make(f"'{key}' in {where}", "file", key, file, line)

    @classmethod
    def of_line(cls, named: str, file: str, line: int) -> Origin:
        """A line of a file that is no setting. `named`: how the file was given."""
        return cls._make(f"{named} {file}", "file", "", file, line)

    @classmethod
    def _make(cls, text: str, kind: str, name: str, file: str = "", line: int = 0) -> Origin:
        made = cls(text)
        made.kind, made.name, made.file, made.line = kind, name, file, line
        return made

    @property
    def short(self) -> str:
        """Such as `engine.toml:3`, or the flag or variable."""
        if not self.file:
            return self.name
        return f"{self.file}:{self.line}" if self.line else self.file

    def fields(self) -> dict[str, Any]:
        """Returns the parts that are known, for JSON."""
        if self.kind != "file":
            return {self.kind: self.name}
        known = {"file": self.file, "line": self.line, "key": self.name}
        return {name: value for name, value in known.items() if value}
