"""The store: one record per job, the truth about it. `base` is the port; each engine is a package beside it."""
