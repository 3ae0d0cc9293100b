"""Conversion of checkpoints from other formats, and export of the encoders to other formats."""
