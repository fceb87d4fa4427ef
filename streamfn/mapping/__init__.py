"""Layer 3: the event source mapping, from a shard log to a checkpoint, and the worker's main."""
