"""All that leaves a loop: to a socket, to another loop, to NATS; and what becomes of it.

Write queues, backlog, receipts owed, drop notices, the ledger. Cimports base/, wire/ and tables/."""
