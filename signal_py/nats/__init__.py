"""NATS as Python sees it: which server, with which credentials, over TLS; and a server of its own.

Imports base/ and config/."""
