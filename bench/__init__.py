"""Measures a real server over TCP, with the load from another process on another core. `make bench` runs it."""
