"""Modules that know nothing of signaling: errors, the log, addresses, threads, files, the machine's resources.

Every folder may import from it. It imports from none."""
