"""What was measured, as pictures, tables and text."""
