"""Bytes of files on one side, records and changes on the other: what `import` reads and `export` writes."""
