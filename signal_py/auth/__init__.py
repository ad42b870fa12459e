"""Who may connect: tokens, keys, grants, and the callback of an embedding program.

Imports base/ and config/."""
