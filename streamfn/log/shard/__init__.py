"""The log of one shard: append, commit, recover, read, seek, seal, merge, trim; what is gone and what comes next."""
