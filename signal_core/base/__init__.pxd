"""What knows nothing of connections: system calls, limits, counters, arrays, packets and their memory, text.

Every folder may cimport it; it cimports none."""
