"""The `pir` command."""

from .main import main as main  # where the script of an editable install that is older than this folder looks for it
