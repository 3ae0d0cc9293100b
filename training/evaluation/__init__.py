"""Retrieval and zero-shot metrics of any dual encoder, with confidence intervals."""
