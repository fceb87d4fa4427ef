"""Event source mappings: streams on one side, functions on the other, and what lies between."""
