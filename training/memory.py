"""Memory of this process."""

import sys


def peak_memory() -> float | None:
    """Largest resident memory of this process so far, GiB; None on Windows, which does not tell."""
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
