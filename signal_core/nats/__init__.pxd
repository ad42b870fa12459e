"""The NATS link, which loop 0 owns: connection, TLS, subscriptions, incoming messages.

Cimports the folders up to route/."""
