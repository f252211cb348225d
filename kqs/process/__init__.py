"""The process around the server: its standard descriptors, signals, forks, and its end, whatever users' code holds."""
