"""Errors that a user can fix, reported in one sentence: wrong input and missing optional packages."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType


@contextmanager
def one_sentence() -> Iterator[None]:
    """End a command with `error: ...` and exit code 1 where its input, a file or the environment is wrong.

    Other exceptions are faults of this package and keep their traceback.
    """
    try:
        yield
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        sys.exit(f"error: {error}")


def need(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional package.

    Args:
        module: its name, dotted for a part of it, such as "rasterio.warp".
        extra: the extra of modeling-pir that brings it.
        purpose: what needs it, with its verb: "Georeferenced scenes need".

    Returns:
        The module that is named.

    Raises:
        ImportError: it is not installed; the sentence says how to.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(f"{purpose} {package}: pip install 'modeling-pir[{extra}]'.") from error
