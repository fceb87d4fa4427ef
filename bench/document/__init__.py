"""docs/performance.md: made of a template of prose, and of what was measured (results.json)."""
