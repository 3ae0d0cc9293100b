"""Retrieval and zero-shot metrics of any dual encoder, and how sure they are."""
