"""The shard log: streams of shards of Arrow segments on disk, appended by one process, read by any."""
