"""The formats that tables of captions come in."""
