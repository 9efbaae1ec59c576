"""Benchmarks and fault campaigns. Never part of the wheel."""
