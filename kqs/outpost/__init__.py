"""A worker away from its server: runs come over a connection, and so go their ends. The lanes are those of kqs.worker."""
