"""Training, evaluation and publishing of PIR, run from a checkout."""

import sys
from importlib.util import find_spec

_missing = [name for name in ("accelerate", "datasets", "matplotlib", "yaml") if find_spec(name) is None]
if _missing:
    _sentence = f"The commands in training/ need {', '.join(_missing)}: pip install 'modeling-pir[train]'."
    if "training.benchmarks.gpu" not in sys.orig_argv:  # which runs on a bare machine
        if sys.argv[0] == "-m":  # python -m training.train, even with --help
            sys.exit(f"error: {_sentence}")
        raise ImportError(_sentence)
