"""`pir convert`: a checkpoint of the official code as a folder for from_pretrained."""

import sys
from collections.abc import Sequence


def convert(arguments: Sequence[str]) -> int:
    """Hand over to the converter, which has its own options and examples."""
    from ..convert.convert_pir_checkpoint_to_hf import main as convert

    sys.argv = ["pir convert", *arguments]
    convert()
    return 0
