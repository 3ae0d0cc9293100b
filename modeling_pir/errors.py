"""What a user can mend, told in one sentence."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_sentence() -> Iterator[None]:
    """End a command with `error: ...` and exit code 1 where its input, a file or the environment is wrong.

    Other exceptions are faults of this package and keep their traceback.
    """
    try:
        yield
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        sys.exit(f"error: {error}")
