"""Benchmarks of search: latency, recall, and queries of several parts."""
