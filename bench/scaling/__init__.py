"""How throughput and memory go with the size of records, with shards, mappings, and the backlog."""
