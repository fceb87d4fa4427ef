"""What the log lies on: every system call behind one interface, locks, the commit file, durability by name."""
