"""Where the rows and vectors of an index are kept."""
