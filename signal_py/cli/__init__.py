"""The command line, `signal-engine`.

Imports everything; nothing imports it."""
