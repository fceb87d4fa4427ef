"""One segment file: mapped, scanned, sealed, compressed, checked, read whatever is wrong with it."""
