"""The synthetic sample data set, whose scenes are drawn by code."""
