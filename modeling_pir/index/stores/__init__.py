"""Storage for the rows and vectors of an index."""
