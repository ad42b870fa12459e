"""What knows no connection: system calls, limits, counters, memory for packets, text.

Every folder may cimport it; it cimports none."""
