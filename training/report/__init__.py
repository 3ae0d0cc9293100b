"""Reports: pictures, tables and text."""
