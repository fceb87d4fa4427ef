"""Live streams into shard logs: what `streamfn record` does, without the command line."""
