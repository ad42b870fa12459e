"""NATS servers: which one is dialled, with which credentials and TLS files; and the embedded server.

Imports base/ and config/."""
