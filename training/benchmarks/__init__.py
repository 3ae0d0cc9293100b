"""Benchmarks that print their figures beside the alternative."""
