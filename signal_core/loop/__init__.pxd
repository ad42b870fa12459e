"""The event loop: one iteration, the thread that runs it, tasks from other threads, its shutdown.

Cimports every folder above; only the engine module cimports it."""
