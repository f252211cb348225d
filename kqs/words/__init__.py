"""Words for people: how many of what, which known name was meant, and text of strangers."""
