"""Jobs that are inserted at times: which times these are, and who inserts them."""
