"""The archive that an index is of: what is said of its files, where they have gone, which are gone."""
