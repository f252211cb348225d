"""What an owner is shown of jobs, types and workers, and in which words; nothing here changes anything."""
