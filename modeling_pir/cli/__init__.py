"""The `pir` command."""
