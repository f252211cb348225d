"""The heart: store and broker joined, and every rule of a job's life. docs/architecture.md says what is in which file."""
