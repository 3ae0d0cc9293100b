"""The model, tokenizer and processor of a run, and their start weights."""
