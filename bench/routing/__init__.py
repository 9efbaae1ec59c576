"""Benchmarks of the classifier behind `auto`."""
