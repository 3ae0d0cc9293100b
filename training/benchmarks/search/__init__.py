"""What a search finds, and what questions of several parts bring."""
