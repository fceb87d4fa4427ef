"""Streams and shards as they are named, described and found; the clocks a shard's age is told by."""
