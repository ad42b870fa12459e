"""Authentication of clients: tokens, keys, grants, and the authorizer of an embedding program.

Imports base/ and config/."""
