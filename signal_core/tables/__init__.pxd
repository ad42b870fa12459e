"""The structs that hold all state, and the tables that find it: connections, timers, rooms, mailboxes, access rights.

Each struct names its owner. Cimports base/ and wire/."""
