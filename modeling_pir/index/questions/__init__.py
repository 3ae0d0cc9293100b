"""Queries to an index: their vectors and filters, and how the answers are ranked."""
