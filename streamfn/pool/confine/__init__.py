"""What holds an execution environment: limits, walls, and what of them this machine can give."""
