"""What is done to a stream now and then: verify, repair, seal and trim, split and merge."""
