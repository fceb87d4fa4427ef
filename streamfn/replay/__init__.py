"""Replays: a part of a stream again, at a pace of its own, step by step, through two handlers, or what failed."""
