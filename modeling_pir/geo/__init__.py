"""Georeferenced rasters: read, cut into chips, placed on the ground."""
