"""Training, evaluation and publishing of PIR, run from a checkout."""
