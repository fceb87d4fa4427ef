"""Measurements: histograms and their files, result documents, thresholds, and what two results differ in."""
