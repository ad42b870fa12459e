"""Settings: their table, where they come from, and how they are checked.

Imports base/ only."""
