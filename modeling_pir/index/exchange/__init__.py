"""Exchange with other programs: rows and hits as files, and such files as rows."""
