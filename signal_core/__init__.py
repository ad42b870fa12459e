"""The data path of signal-engine: from the socket to the NATS wire, in C, without the GIL."""
