"""What knows nothing of signaling: errors, the log, addresses, threads, files, what the machine has.

Every folder may import it; it imports none."""
