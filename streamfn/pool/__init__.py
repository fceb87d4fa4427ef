"""Warm worker processes and the rings they are fed by; what an entry means is the caller's business."""
