"""The structs of all state, and the tables that find it: connections, timers, rooms, mailboxes, acls.

Each struct names its owner. Cimports base/ and wire/."""
