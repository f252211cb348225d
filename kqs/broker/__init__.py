"""Which jobs are ready, and in what order."""
