"""The event loop: one iteration, the thread that runs it, what other threads ask of it, its shutdown.

Cimports every folder above; only the engine module cimports it."""
