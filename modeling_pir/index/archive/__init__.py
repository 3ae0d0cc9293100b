"""The archive behind an index: labels of its files, and files that are new, moved or gone."""
