"""The NATS link, which loop 0 owns: connect, TLS, subscriptions, what comes in.

Cimports the folders up to route/."""
