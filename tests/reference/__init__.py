"""What the official code computes, as numbers, and the generator of its checkpoint."""
