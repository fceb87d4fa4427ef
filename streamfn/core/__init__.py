"""Pure machines: they decide, and never wait.  Time is an argument and randomness is injected."""
