"""A client's connection: accepted, upgraded, authenticated, read, kept alive.

Cimports the folders up to route/, and never nats/."""
