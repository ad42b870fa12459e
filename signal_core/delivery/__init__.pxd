"""All that leaves a loop, to a socket, another loop or NATS, and its fate.

Write queues, backlog, refs, drop notices, the ledger. Cimports base/, wire/ and tables/."""
