"""Settings: the table of them, where they come from, how they are checked.

Imports base/ only."""
