"""Weights of other formats in, the encoders of PIR in other formats out."""
