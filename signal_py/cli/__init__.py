"""The command line, `signal-engine`.

Imports from every folder. Nothing imports from it."""
