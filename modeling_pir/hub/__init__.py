"""Loading and publishing models."""
