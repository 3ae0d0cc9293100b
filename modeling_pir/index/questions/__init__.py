"""Questions to an index: what can be asked, as vectors and filters, and how the answers are ranked."""
