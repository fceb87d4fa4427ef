"""What somebody would pick instead of streamfn, measured beside it: the same records, the same handlers, in turns."""
