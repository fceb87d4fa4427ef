"""What a mapping remembers between runs, and who may run it."""
