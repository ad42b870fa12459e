"""System calls, limits, counters, arrays, text, packets and their memory: nothing that knows a connection.

Every folder may cimport it; it cimports none."""
