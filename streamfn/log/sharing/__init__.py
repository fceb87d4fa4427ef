"""How a process speaks to the one that writes to a shard: where to meet, the frames, asking it to let go."""
