"""Measuring a handler: records to generate, what to run and in which order, one measured run, the highest rate."""
