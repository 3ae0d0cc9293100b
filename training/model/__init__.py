"""What a run trains: its model, tokenizer and processor, and where they start from."""
