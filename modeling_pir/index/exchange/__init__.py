"""Rows and hits as files that other programs read, and such files as rows."""
