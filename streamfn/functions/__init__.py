"""What a function is: its configuration, its code, its start, and the functions that are stored under a name."""
