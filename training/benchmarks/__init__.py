"""Benchmarks that compare with the alternative."""
