"""Putting: many putters, one sync; other processes' puts through the one writer; answers."""
