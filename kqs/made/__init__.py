"""What handlers and programs have made, as JSON and as text. It is the author's, and may do anything when it is looked at."""
