"""Lambda events from rows, their JSON length, and responses and faults as bytes of JSON."""
